"use strict";
// Small parts that pages are made of. Everything that comes from files is written as text.
const SVG = "http://www.w3.org/2000/svg";

function put(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "text") node.textContent = value;
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) node.append(child);
  return node;
}
const el = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => put(document.createElementNS(SVG, tag), attributes, children);
const digits = (value, n) => (value === null || value === undefined || Number.isNaN(value)) ? "–" : value.toFixed(n);
const percent = (value) => value === null || value === undefined ? "–" : (Math.round(100 * value) > 0 ? "+" : "") + (Math.round(100 * value) || 0) + " %";

function quantile(sorted, share) {
  if (!sorted.length) return null;
  const at = (sorted.length - 1) * share, low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}
const sortedNumbers = (values) => values.filter((x) => x !== null && x !== undefined && Number.isFinite(x)).sort((a, b) => a - b);
const mean = (values) => values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;

function save(name, content) {
  const link = el("a", { href: URL.createObjectURL(new Blob([content], { type: "text/tab-separated-values" })), download: name });
  document.body.append(link); link.click(); link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 5000);
}

// A table whose columns sort and that can be saved. A cell is a value, or {shown, value, node}.
function table(name, headings, rows) {
  const plain = (cell) => cell !== null && typeof cell === "object" ? cell.value : cell;
  const body = el("tbody");
  let by = null, direction = 1;
  const fill = () => {
    const order = by === null ? rows : [...rows].sort((a, b) => {
      const x = plain(a[by]), y = plain(b[by]);
      if (x === null || x === undefined) return 1;
      if (y === null || y === undefined) return -1;
      return direction * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true }));
    });
    body.replaceChildren(...order.map((row) => el("tr", {}, row.map((cell) => {
      const odd = cell !== null && typeof cell === "object";
      const shown = odd ? cell.shown : typeof cell === "number" ? (Number.isInteger(cell) ? String(cell) : digits(cell, 3)) : cell ?? "–";
      return el("td", { class: odd && cell.class || (typeof plain(cell) === "string" ? "text" : null) }, odd && cell.node || null, shown);
    }))));
  };
  const sort = (column) => { direction = by === column ? -direction : 1; by = column; fill(); };
  const head = el("tr", {}, headings.map((heading, n) => el("th", { scope: "col" }, el("button", { type: "button", text: heading, onclick: () => sort(n) }))));
  const clean = (cell) => String(plain(cell) ?? "n/a").replace(/[\t\r\n]+/g, " ");
  const tsv = () => [headings, ...rows].map((row) => row.map(clean).join("\t")).join("\n") + "\n";
  fill();
  return el("div", {}, el("div", { class: "wide" }, el("table", {}, el("thead", {}, head), body)),
    el("p", {}, el("button", { type: "button", class: "tsv", text: "Save as TSV", onclick: () => save(name + ".tsv", tsv()) })));
}
