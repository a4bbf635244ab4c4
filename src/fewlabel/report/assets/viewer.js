// The interactive view: NiiVue, unpacked when it is first asked for. One at a time, as browsers
// allow few WebGL contexts.
const blob = (id) => { const node = document.getElementById(id); return node ? node.textContent : null; };
let niivueReady = null;

async function unpacked(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}
function loadNiivue() {
  niivueReady ??= unpacked(blob("niivue")).then((code) => {
    const script = document.createElement("script");
    script.textContent = code;
    document.head.append(script);
    return window.niivue;
  });
  return niivueReady;
}

async function fillViewer(box, number, report) {
  const one = report.cases[number], structures = report.protocols[one.protocol].structures;
  const where = el("span", { class: "where", role: "status" }), canvas = el("canvas", { tabindex: 0, "aria-label": "scan with labels" });
  const opacity = el("input", { type: "range", min: 0, max: 1, step: 0.05, value: 0.5, "aria-label": "opacity of the labels" });
  const search = el("input", { type: "search", placeholder: "Find a structure", "aria-label": "find a structure" });
  const list = el("div", { class: "viewer-list" });
  const planes = el("select", { "aria-label": "planes" }, ["all planes", "axial", "coronal", "sagittal"].map((text) => el("option", { text })));
  const all = el("button", { type: "button", text: "All" }), none = el("button", { type: "button", text: "None" });
  box.replaceChildren(el("div", { class: "viewer-top" }, el("strong", { class: "name", text: one.id }), planes, el("label", {}, "labels ", opacity), where, box.closeButton || null),
    el("div", { class: "viewer-main" }, el("div", { class: "screen" }, canvas), structures.length ? el("div", { class: "viewer-list" }, el("div", { class: "viewer-top" }, search, all, none), list) : null));
  const niivue = await loadNiivue();
  const view = new niivue.Niivue({ backColor: [0.06, 0.065, 0.08, 1], isRadiologicalConvention: false, show3Dcrosshair: true, crosshairWidth: 0.4, crosshairColor: [0.9, 0.6, 0, 0.8], isOrientationTextVisible: true, dragAndDropEnabled: false, logLevel: "silent" });
  await view.attachToCanvas(canvas);
  const add = async (id, name) => { if (blob(id)) view.addVolume(await niivue.NVImage.loadFromBase64({ base64: blob(id), name, cal_min: 0, cal_max: 255 })); };
  await add("scan-" + number, "scan.nii.gz");
  const base = view.volumes.length;
  if (one.has_labels && structures.length) await add("labels-" + number, "labels.nii.gz");
  const overlay = view.volumes[base];
  const shown = structures.map(() => true);
  const paint = () => {
    if (!overlay) return;
    const parts = structures.map((s) => [1, 3, 5].map((at) => parseInt(s.color.slice(at, at + 2), 16)));
    const column = (n) => [0, ...parts.map((p) => p[n])];
    overlay.setColormapLabel({ R: column(0), G: column(1), B: column(2), A: [0, ...shown.map((on) => on ? 255 : 0)], I: [0, ...structures.map((_, n) => n + 1)], labels: ["", ...structures.map((s) => s.name)] });
    view.setOpacity(base, Number(opacity.value));
    view.updateGLVolume();
  };
  const boxes = structures.map((s, n) => el("input", { type: "checkbox", checked: true, onchange: (event) => { shown[n] = event.target.checked; paint(); } }));
  const rows = structures.map((s, n) => el("label", {}, boxes[n], el("span", { class: "swatch", style: "background:" + s.color }), s.name));
  list.append(...rows);
  search.addEventListener("input", () => rows.forEach((row, n) => { row.hidden = !structures[n].name.toLowerCase().includes(search.value.toLowerCase()); row.style.display = row.hidden ? "none" : ""; }));
  const turn = (on) => { boxes.forEach((b, n) => { if (!rows[n].hidden) { b.checked = on; shown[n] = on; } }); paint(); };
  all.addEventListener("click", () => turn(true));
  none.addEventListener("click", () => turn(false));
  opacity.addEventListener("input", () => { if (overlay) view.setOpacity(base, Number(opacity.value)); });
  planes.addEventListener("change", () => view.setSliceType([view.sliceTypeMultiplanar, view.sliceTypeAxial, view.sliceTypeCoronal, view.sliceTypeSagittal][planes.selectedIndex]));
  const tell = (mm) => {
    const value = overlay ? overlay.getValue(...overlay.mm2vox(mm)) : 0;
    where.textContent = `${structures[Math.round(value) - 1]?.name ?? "no structure"}  (${mm.slice(0, 3).map((x) => Math.round(x)).join(", ")} mm)`;
  };
  canvas.addEventListener("mousemove", (event) => {
    const scale = view.uiData?.dpr || window.devicePixelRatio || 1;
    const share = view.canvasPos2frac([event.offsetX * scale, event.offsetY * scale]);
    if (share && share[0] >= 0) tell(Array.from(view.frac2mm(share)));
  });
  view.onLocationChange = (place) => tell(Array.from(place.mm));
  view.setSliceType(view.sliceTypeMultiplanar);
  paint();
  box.view = view;
  box.dataset.ready = "yes";
}

function openViewer(number, report) {
  const dialog = el("dialog", { "aria-label": "interactive view" });
  dialog.closeButton = el("button", { type: "button", class: "right", text: "Close", onclick: () => dialog.close() });
  dialog.addEventListener("close", () => { dialog.view?.gl?.getExtension("WEBGL_lose_context")?.loseContext(); dialog.remove(); });
  document.body.append(dialog);
  dialog.showModal();
  fillViewer(dialog, number, report).catch((problem) => dialog.append(el("p", { class: "alarm", text: "This browser cannot show the view (it needs WebGL 2): " + problem.message })));
}
