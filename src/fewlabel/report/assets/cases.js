// Segmented scans: a list sorted by doubt, each with its picture, numbers and warnings.
function asymmetry(volumes, structure) {
  const left = volumes[structure.name], right = volumes[structure.partner];
  return structure.partner && /left|lh/i.test(structure.name) && left + right > 0 ? 2 * (left - right) / (left + right) : null;
}

function volumeTable(report, one, number) {
  const protocol = report.protocols[one.protocol];
  const peers = report.cases.filter((other, n) => n !== number && other.protocol === one.protocol);
  const rows = protocol.structures.filter((s) => s.name in one.volumes).map((s) => {
    const mm3 = one.volumes[s.name], others = sortedNumbers(peers.map((p) => p.volumes[s.name]));
    const below = others.length >= 4 ? others.filter((v) => v < mm3).length / others.length : null;
    const range = report.norms[s.name] || null, expected = one.expected[s.name];
    const odd = range && (mm3 < range[0] || mm3 > range[1]);
    return [{ value: s.name, shown: s.name, class: "text", node: el("span", { class: "swatch", style: "background:" + s.color }) },
      { value: mm3 / 1000, shown: digits(mm3 / 1000, 2), class: odd ? "alarm" : null },
      { value: below, shown: below === null ? "–" : (100 * below).toFixed(0) + " %" },
      { value: mm3, shown: "", node: strip(mm3, others, range) },
      { value: asymmetry(one.volumes, s), shown: percent(asymmetry(one.volumes, s)) },
      { value: expected ? expected.dice : null, shown: expected ? `${digits(expected.dice, 2)} (${digits(expected.low, 2)}–${digits(expected.high, 2)})` : "–" }];
  });
  return table(one.id + "_volumes", ["structure", "cm³", "of the others are smaller", "among the others", "asymmetry", "expected Dice (90 %)"], rows);
}

function caseBody(report, one, number) {
  const warnings = one.warnings.map((text) => {
    const finding = one.findings.find((f) => f.says === text);
    return el("li", { class: "alarm" }, text, finding ? el("span", { class: "faint", text: ` [rule: ${finding.rule}; value ${finding.value}, limit ${finding.limit}]` }) : null);
  });
  return el("div", { class: "body" },
    one.picture ? el("img", { class: "qc", src: one.picture, alt: "three planes with contours of " + one.id }) : null,
    warnings.length ? el("ul", { class: "warnings" }, warnings) : el("p", { class: "faint", text: "No check objected." }),
    one.has_labels ? el("button", { type: "button", class: "open-viewer", text: "Open the interactive view", onclick: () => openViewer(number, report) }) : null,
    one.has_labels && !one.has_scan ? el("p", { class: "faint", text: "The scan is no longer where it was; the view shows labels only." }) : null,
    one.age ? el("p", { class: "age", text: `Age at scan, as the network tells it: ${one.age}.` }) : null,
    el("h3", { text: "Volumes" }), volumeTable(report, one, number),
    el("details", {}, el("summary", { text: "Where this comes from" }), el("pre", { text: JSON.stringify({ ...one.record, quality: undefined, files: one.files }, null, 1) })));
}

function caseCard(report, one, number) {
  const card = el("details", { class: "case", "data-id": one.id }, el("summary", {}, el("span", { class: "name", text: one.id }),
    el("span", { class: one.warnings.length ? "badge alarm" : "badge", text: one.warnings.length === 1 ? "1 warning" : `${one.warnings.length || "no"} warnings` }),
    el("span", { class: "faint", text: one.warnings[0] || "" }),
    el("span", { class: "right", text: one.mean === null ? "" : `expected Dice ${digits(one.mean, 2)}` }),
    el("span", { text: "Total-Brain" in one.volumes ? `${(one.volumes["Total-Brain"] / 1000).toFixed(0)} cm³` : "" })));
  card.addEventListener("toggle", () => { if (card.open && !card.querySelector(".body")) card.append(caseBody(report, one, number)); });
  return card;
}

function casesPart(report) {
  const cards = report.cases.map((one, n) => caseCard(report, one, n));
  const list = el("div", { id: "cases" }, cards), count = el("span", { class: "faint", role: "status" });
  const search = el("input", { type: "search", id: "search", placeholder: "Find a case or a warning", "aria-label": "find a case or a warning" });
  const only = el("input", { type: "checkbox", id: "only-warned" });
  const orders = { "most doubtful first": (a, b) => a - b,
    "name": (a, b) => report.cases[a].id.localeCompare(report.cases[b].id, undefined, { numeric: true }),
    "expected Dice": (a, b) => (report.cases[a].mean ?? 2) - (report.cases[b].mean ?? 2),
    "brain volume": (a, b) => (report.cases[a].volumes["Total-Brain"] ?? 0) - (report.cases[b].volumes["Total-Brain"] ?? 0) };
  const sort = el("select", { id: "sort", "aria-label": "order" }, Object.keys(orders).map((text) => el("option", { text })));
  const update = () => {
    const words = search.value.toLowerCase();
    const kept = [...cards.keys()].filter((n) => (!only.checked || report.cases[n].warnings.length) && (report.cases[n].id + " " + report.cases[n].warnings.join(" ")).toLowerCase().includes(words)).sort(orders[sort.value]);
    list.replaceChildren(...kept.map((n) => cards[n]));
    count.textContent = `${kept.length} of ${cards.length} shown`;
  };
  for (const control of [search, only, sort]) control.addEventListener("input", update);
  const all = (open) => [...list.children].forEach((card) => { card.open = open; });
  update();
  return [el("h2", { text: "Scans" }), el("div", { class: "bar" }, search, el("label", {}, "order ", sort), el("label", {}, only, " with warnings only"),
    el("button", { type: "button", text: "Open all", onclick: () => all(true) }), el("button", { type: "button", text: "Close all", onclick: () => all(false) }), count), list];
}

function cohortPart(report) {
  return report.protocols.map((protocol, n) => {
    const cases = report.cases.filter((one) => one.protocol === n);
    const names = protocol.structures.map((s) => s.name), columns = [...names, "Total-Brain"];
    const share = (values) => { const middle = quantile(sortedNumbers(values), 0.5); return values.map((v) => middle ? v / middle : null); };
    const groups = names.map((name) => { const shares = share(cases.map((one) => one.volumes[name] ?? null)); return { name, boxes: [{ values: shares.map((value, k) => ({ value, label: cases[k].id })) }] }; });
    const rows = cases.map((one) => [one.id, one.warnings.length, one.mean, ...columns.map((name) => { const v = one.volumes[name]; return { value: v ?? null, shown: v === undefined ? "–" : (v / 1000).toFixed(2) }; })]);
    return [el("h2", { text: `All scans: ${protocol.name}` }),
      cases.length > 2 ? boxChart("Volume over the cohort's median; outliers name themselves", groups, { digits: 2 }) : null,
      el("details", {}, el("summary", { text: "Volumes of all scans (cm³; mm³ in the saved table)" }), table("volumes_" + protocol.name, ["case", "warnings", "expected Dice", ...columns], rows))];
  });
}

function methodsPart(report) {
  if (!report.methods.text) return null;
  const text = report.methods.text + "\n\n" + report.methods.citations.map((c, n) => `${n + 1}. ${c}`).join("\n");
  return [el("h2", { text: "For your Methods section" }), el("p", { text: report.methods.text }), el("ol", {}, report.methods.citations.map((c) => el("li", { text: c }))),
    el("button", { type: "button", text: "Save as text", onclick: () => save("methods.txt", text) })];
}
