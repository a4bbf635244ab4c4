// Charts as SVG. Colors are those of Okabe and Ito, which color-blind people can tell apart.
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c"];

function ticks(low, high, n) {
  const step = 10 ** Math.floor(Math.log10((high - low) / n || 1));
  const nice = [1, 2, 5, 10].map((x) => x * step).find((x) => (high - low) / x <= n) || step * 10;
  const found = [];
  for (let at = Math.ceil(low / nice) * nice; at <= high + nice * 1e-6; at += nice) found.push(Number(at.toPrecision(8)));
  return found;
}

// series: [{name, points: [[x, y], ...], dots}]
function lineChart(title, series) {
  const width = 560, height = 260, left = 56, right = 10, top = 26, bottom = 34;
  const xs = series.flatMap((s) => s.points.map((p) => p[0])), ys = series.flatMap((s) => s.points.map((p) => p[1])).filter(Number.isFinite);
  if (!ys.length) return null;
  const x0 = Math.min(...xs), x1 = Math.max(...xs, x0 + 1);
  let y0 = Math.min(...ys), y1 = Math.max(...ys);
  if (y0 === y1) { y0 -= 0.5; y1 += 0.5; }
  const x = (v) => left + (v - x0) / (x1 - x0) * (width - left - right), y = (v) => height - bottom - (v - y0) / (y1 - y0) * (height - top - bottom);
  const lines = series.map((s, n) => [
    svg("polyline", { fill: "none", stroke: COLORS[n % COLORS.length], "stroke-width": 1.6, points: s.points.filter((p) => Number.isFinite(p[1])).map((p) => x(p[0]).toFixed(1) + "," + y(p[1]).toFixed(1)).join(" ") }),
    s.points.length < 60 ? s.points.map((p) => svg("circle", { cx: x(p[0]), cy: y(p[1]), r: 2.5, fill: COLORS[n % COLORS.length] })) : null,
  ]);
  const names = el("div", { class: "faint" }, series.map((s, n) => el("span", { style: "margin-right:14px" }, el("span", { class: "swatch", style: "background:" + COLORS[n % COLORS.length] }), s.name)));
  return el("figure", { style: "margin:8px 0;max-width:560px" }, svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title },
    svg("text", { x: left, y: 16, "font-size": 13, "font-weight": 600, text: title }),
    ticks(y0, y1, 5).map((v) => [svg("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), stroke: "currentColor", opacity: 0.15 }), svg("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end", "font-size": 11, text: String(v) })]),
    ticks(x0, x1, 6).map((v) => svg("text", { x: x(v), y: height - 16, "text-anchor": "middle", "font-size": 11, text: String(v) })),
    svg("text", { x: (left + width) / 2, y: height - 2, "text-anchor": "middle", "font-size": 11, text: "step" }), lines), names);
}

// groups: [{name, boxes: [{values: [{value, label}], color, mark}]}]; one row per group, boxes below each other.
function boxChart(title, groups, options) {
  const rowHeight = Math.max(16, 12 * Math.max(...groups.map((g) => g.boxes.length))) + 6, left = 210, width = 760, right = 14, top = 40;
  const height = top + groups.length * rowHeight + 34;
  const all = sortedNumbers(groups.flatMap((g) => g.boxes.flatMap((b) => b.values.map((v) => v.value))));
  if (!all.length) return null;
  let low = options.low ?? all[0], high = options.high ?? all[all.length - 1];
  if (low === high) { low -= 0.5; high += 0.5; }
  const x = (v) => left + (v - low) / (high - low) * (width - left - right);
  const drawn = groups.map((group, row) => {
    const middle = top + row * rowHeight + rowHeight / 2, each = (rowHeight - 6) / group.boxes.length;
    return [svg("text", { x: left - 8, y: middle + 4, "text-anchor": "end", "font-size": 11, text: group.name }), group.boxes.map((box, n) => {
      const values = sortedNumbers(box.values.map((v) => v.value)), color = box.color || COLORS[n % COLORS.length];
      const at = top + row * rowHeight + 3 + each * (n + 0.5), half = Math.min(7, each * 0.4);
      if (!values.length) return null;
      const [q1, q2, q3] = [0.25, 0.5, 0.75].map((share) => quantile(values, share));
      const whisker = 1.5 * (q3 - q1), first = values.find((v) => v >= q1 - whisker), last = values.findLast((v) => v <= q3 + whisker);
      return svg("g", {}, values.length > 2 ? [
        svg("line", { x1: x(first), x2: x(last), y1: at, y2: at, stroke: color }),
        svg("rect", { x: x(q1), y: at - half, width: Math.max(1, x(q3) - x(q1)), height: 2 * half, fill: color, "fill-opacity": 0.25, stroke: color }),
        svg("line", { x1: x(q2), x2: x(q2), y1: at - half, y2: at + half, stroke: color, "stroke-width": 2.5 })] : null,
      box.values.filter((v) => Number.isFinite(v.value) && (values.length <= 2 || v.value < first || v.value > last || v.mark)).map((v) =>
        svg("circle", { cx: x(v.value), cy: at, r: v.mark ? 4.5 : 2.5, fill: v.mark ? "#d55e00" : color }, svg("title", { text: `${v.label}: ${digits(v.value, options.digits ?? 3)}` }))));
    })];
  });
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title, style: "max-width:760px" },
    svg("text", { x: 4, y: 16, "font-size": 13, "font-weight": 600, text: title }),
    ticks(low, high, 7).map((v) => [svg("line", { x1: x(v), x2: x(v), y1: top, y2: height - 28, stroke: "currentColor", opacity: 0.15 }), [top - 3, height - 14].map((y) => svg("text", { x: x(v), y, "text-anchor": "middle", "font-size": 11, text: String(v) }))]), drawn);
}

// Where one value lies: a usual range as a band, others as ticks, its own as a dot.
function strip(value, others, range) {
  const width = 150, height = 16, seen = [value, ...others, ...(range || [])];
  let low = Math.min(...seen), high = Math.max(...seen);
  if (low === high) { low -= 1; high += 1; }
  const pad = (high - low) * 0.06, x = (v) => 2 + (v - low + pad) / (high - low + 2 * pad) * (width - 4);
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    range ? svg("rect", { x: x(range[0]), width: x(range[1]) - x(range[0]), y: 2, height: 12, fill: "#009e73", opacity: 0.25 }) : null,
    others.map((v) => svg("line", { x1: x(v), x2: x(v), y1: 4, y2: 12, stroke: "currentColor", opacity: 0.45 })),
    svg("circle", { cx: x(value), cy: 8, r: 4, fill: "#d55e00" }));
}
