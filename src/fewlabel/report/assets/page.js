// The page itself.
(() => {
  const report = JSON.parse(blob("data")), page = document.getElementById("page");
  if (report.view) {
    const box = el("div", { class: "viewer" });
    page.style.maxWidth = "none";
    page.append(el("h1", { class: "name", text: report.title }), box);
    fillViewer(box, 0, report).catch((problem) => box.append(el("p", { class: "alarm", text: "This browser cannot show the view (it needs WebGL 2): " + problem.message })));
    return;
  }
  const warned = report.cases.filter((one) => one.warnings.length).length;
  put(page, {}, [el("header", {}, el("h1", { text: report.title }),
    report.cases.length ? el("p", { text: `${warned} of ${report.cases.length} with warnings. Look at every result before you believe it; start at the top.` }) : null,
    el("p", { class: "faint", text: `fewlabel ${report.fewlabel}, ${report.made}. For research, not for clinical use.` })),
  el("main", {}, report.cases.length ? [casesPart(report), cohortPart(report), methodsPart(report)] : null, comparePart(report.runs), report.runs.map(runPart))]);
  document.body.dataset.ready = "yes";
})();
