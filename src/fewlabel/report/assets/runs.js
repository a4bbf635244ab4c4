// Training runs: curves, held-out scans worst first, structures, confusions, settings.
function byKey(rows, key, value) {
  const found = new Map();
  for (const row of rows) { const k = key(row); if (!found.has(k)) found.set(k, []); found.get(k).push(value(row)); }
  return found;
}

function diceBoxes(title, runs) {
  const names = [...new Set(runs.flatMap((run) => run.dice.map((row) => row[2])))];
  const groups = names.map((name) => ({ name, boxes: runs.map((run, n) => ({ color: COLORS[n % COLORS.length], values: run.dice.filter((row) => row[2] === name).map((row) => ({ value: row[3], label: `${run.name}, ${row[0]}` })) })) }));
  return groups.length ? boxChart(title, groups, { low: 0, high: 1 }) : null;
}

function comparePart(runs) {
  if (runs.length < 2) return null;
  const rows = runs.map((run, n) => { const values = run.dice.map((row) => row[3]); return [{ value: run.name, shown: run.name, class: "text", node: el("span", { class: "swatch", style: "background:" + COLORS[n % COLORS.length] }) }, mean(values), quantile(sortedNumbers(values), 0.5), byKey(run.dice, (row) => row[0], (row) => row[3]).size]; });
  return [el("h2", { text: "Runs side by side" }), el("p", { class: "faint", text: "Dice on the held-out scans of each run, as of its last validation; runs that were validated on other scans cannot be compared." }),
    table("runs", ["run", "mean Dice", "median Dice", "held-out scans"], rows), diceBoxes("Dice by structure and run", runs)];
}

function runPart(run) {
  const stages = [...byKey(run.curves, (c) => c.stage, (c) => c)];
  const curves = stages.flatMap(([stage, found]) => {
    const held = (c) => c.quantity.includes("validation");
    return [["training", found.filter((c) => !held(c))], ["validation", found.filter(held)]].map(([kind, some]) => some.length ? lineChart(`${stage}: ${kind}`, some.map((c) => ({ name: c.quantity, points: c.points }))) : null);
  });
  const cases = [...byKey(run.dice, (row) => row[0], (row) => row)].map(([id, rows]) => { const worst = rows.reduce((a, b) => a[3] <= b[3] ? a : b); return [id, mean(rows.map((r) => r[3])), { value: worst[2], shown: `${worst[2]} (${digits(worst[3], 3)})`, class: "text" }]; }).sort((a, b) => a[1] - b[1]);
  const confusion = run.confusion.map(([head, truth, said, voxels, share]) => [head, truth, said, voxels, { value: share, shown: (100 * share).toFixed(1) + " %" }]);
  return [el("h2", { text: `Run ${run.name}` }), el("div", { style: "display:flex;flex-wrap:wrap;gap:12px" }, curves),
    cases.length ? [el("h3", { text: "Held-out scans, worst first" }), table(run.name + "_validation", ["case", "mean Dice", "worst structure"], cases), diceBoxes("Dice by structure", [run]),
      el("details", {}, el("summary", { text: "Every score" }), table(run.name + "_scores", ["case", "head", "structure", "Dice"], run.dice))] : el("p", { class: "faint", text: "This run has not been validated yet." }),
    confusion.length ? [el("h3", { text: "What is taken for what" }), table(run.name + "_confusion", ["head", "truth", "taken for", "voxels", "of the truth"], confusion)] : null,
    el("details", {}, el("summary", { text: "Settings" }), el("pre", { text: run.settings })),
    el("details", {}, el("summary", { text: "Where this comes from" }), el("pre", { text: JSON.stringify(run.provenance, null, 1) }))];
}
