import { about, ask, attempt, card, chooser, count, download, el, galleryButton, MISSING, PALETTE, place, recordField, FIELDS, short } from "./view.js";
import { Scatter } from "./scatter.js";

const VIRIDIS = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"].map(rgb);
function rgb(hex) { return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)); }
function viridis(share) {
  const position = Math.max(0, Math.min(1, share)) * (VIRIDIS.length - 1), i = Math.min(VIRIDIS.length - 2, Math.floor(position));
  return VIRIDIS[i].map((v, c) => v + (VIRIDIS[i + 1][c] - v) * (position - i));
}

export async function draw(page, { record } = {}) {
  const names = {};
  let scatter, map, colour, chosen = [], marked = -1, field = "";
  let by = Object.keys(about.labels).map((n) => `label:${n}`).find((n) => about.labels[n.slice(6)] === "classes") || "count";
  const stage = el("div", { class: "stage" }), legend = el("div", { class: "legend" }), side = el("div", { "aria-live": "polite" });
  const list = el("ul", { class: "list", "aria-label": "selected records" }), total = el("p", { class: "faint" }), note = el("p", { class: "faint" });
  const save = el("button", { type: "button", hidden: true, onclick: () => attempt(() => download("selection.csv", "/view/selection", numbers())) }, "Save the selection as CSV");
  const gallery = galleryButton(numbers, () => "a selection on the map");
  gallery.hidden = true;
  const choices = [...Object.keys(about.labels).map((n) => [`label:${n}`, n, "labels"]),
    ...about.indexed.map((s) => [`has:${s}`, `has ${s}?`, "fields"]), ["count", "how many fields", "fields"],
    ["agreement", "do fields agree on neighbours?", "fields"],
    ...Object.keys(about.attributes).map((n) => { const field = n.split(".")[0]; return [`data:${n}`, n, field in about.fields ? `data: ${field}` : "data: other columns"]; })];
  const lassoing = el("button", { type: "button", "aria-pressed": "false", onclick: () => {
    scatter.lassoing = !scatter.lassoing;
    lassoing.setAttribute("aria-pressed", scatter.lassoing);
  } }, "Lasso");
  page.append(
    el("div", { class: "bar" }, chooser("Map of", FIELDS, (v) => attempt(() => load(v)), field), chooser("Colour", choices, (v) => attempt(() => paint(v)), by), ...recordField("Find", find, "find-on-map").parts, lassoing,
      el("button", { type: "button", onclick: () => select(scatter.inView()) }, "Select what is in view"),
      el("button", { type: "button", onclick: () => { scatter.home(); mark(-1); select([]); } }, "Reset")),
    el("div", { class: "split" },
      el("div", {}, stage, legend, note, el("p", { class: "faint" }, "Drag to move, wheel or + and − to zoom, Shift-drag for a lasso; on the keyboard arrows, +, −, 0, and Enter for the record in the middle.")),
      el("aside", { "aria-label": "records" }, side, total, el("div", { class: "bar" }, save, gallery), list)));

  async function load(of) {
    field = of;
    Object.keys(names).forEach((i) => delete names[i]);
    stage.replaceChildren(el("p", { class: "faint" }, " computing …"));
    const asked = `/view/map?field=${encodeURIComponent(of)}`;
    const [computed, tints] = await Promise.all([ask(asked), ask(`/view/colour?by=${encodeURIComponent(by)}`)]);
    if (!page.isConnected || field !== of) return;
    colour = tints;
    show(computed);
    select([]);
    if (!map.final) attempt(async () => { // UMAP is not there yet: these are the principal components
      const better = await ask(`${asked}&best=true`);
      if (page.isConnected && field === of) { const selected = chosen; show(better); select(selected); }
    });
  }

  function show(computed) {
    const number = marked >= 0 && map ? map.numbers[marked] : -1;
    map = computed;
    scatter?.close();
    stage.replaceChildren();
    const unit = (v) => Float32Array.from(v, (n) => n / 65535);
    scatter = new Scatter(stage, unit(map.x), unit(map.y), { hover, pick, lasso: select, label: `map of ${map.numbers.length} records`, flat: location.search === "?flat" });
    stage.dataset.kind = scatter.kind;
    stage.dataset.points = map.numbers.length;
    const few = map.numbers.length < map.of ? `${count(map.numbers.length)} of ${count(map.of)} records are drawn, chosen by chance; Search and Find see all of them. ` : "";
    note.textContent = few + (map.projection === "umap" ? "UMAP" : map.final ? "Principal components" : "Principal components, until UMAP is done") + (field ? ` of ${field}.` : " of all fields.");
    mark(number >= 0 ? map.numbers.indexOf(number) : -1);
    shade();
    legend.replaceChildren(...key());
  }

  async function paint(choice) {
    by = choice;
    const tints = await ask(`/view/colour?by=${encodeURIComponent(choice)}`);
    if (by !== choice || !page.isConnected) return;
    colour = tints;
    shade();
    legend.replaceChildren(...key());
  }

  function mark(i) { marked = i; scatter.mark(i); }

  /** Shows a record on the map; one that is not drawn by the drawn one that is nearest to it. */
  async function find(number) {
    const [drawn, made] = await Promise.all([ask(`/view/place/${number}?field=${encodeURIComponent(field)}`), card(number, { full: true })]);
    const i = map.numbers.indexOf(drawn.number);
    if (i < 0) throw new Error(`this record has no ${field}, and is not on its map`);
    mark(i);
    scatter.show(i);
    place(side, made, ...(drawn.number === number ? [] : [el("p", { class: "faint" }, "It is not among the records that are drawn; the ring is round the drawn one that is nearest to it.")]));
  }

  function shade() {
    if (!colour || !scatter) return;
    const bytes = new Uint8Array(4 * map.numbers.length), on = new Set(chosen), grey = rgb(MISSING), names = PALETTE.map(rgb);
    map.numbers.forEach((_, i) => {
      const value = colour.values[map.places[i]];
      const known = colour.kind === "classes" ? value >= 0 : value != null;
      const paint = !known ? grey : colour.kind === "numbers" ? viridis((value - colour.low) / (colour.high - colour.low || 1)) : names[value % names.length];
      bytes.set([...paint, on.size && !on.has(i) ? 28 : known ? 225 : 110], 4 * i);
    });
    scatter.paint(bytes);
  }

  function key() {
    const dot = (tint, text) => { const mark = el("i"); mark.style.background = tint; return el("span", {}, mark, text); };
    if (colour.kind === "classes") {
      const entries = colour.names.slice(0, PALETTE.length).map((name, i) => dot(PALETTE[i], name));
      if (colour.names.length > PALETTE.length) entries.push(el("span", { class: "faint" }, `and ${colour.names.length - PALETTE.length} rarer in the same colours`));
      return colour.values.includes(-1) ? [...entries, dot(MISSING, "not known")] : entries;
    }
    const strip = el("canvas", { width: 100, height: 1, role: "img", "aria-label": "from low to high" }), pen = strip.getContext("2d");
    for (let i = 0; i < 100; i++) { pen.fillStyle = `rgb(${viridis(i / 99).map(Math.round)})`; pen.fillRect(i, 0, 1, 1); }
    return [`${colour.clipped ? "≤ " : ""}${short(colour.low)}`, strip, `${colour.clipped ? "≥ " : ""}${short(colour.high)}`, ...(colour.values.includes(null) ? [dot(MISSING, "not known")] : [])];
  }

  let over = -1, tip;
  function hover(i, px, py) {
    if (i === over) return;
    over = i;
    tip?.remove();
    tip = null;
    if (i < 0) return;
    setTimeout(async () => {
      if (over !== i) return;
      const made = await card(map.numbers[i]).catch(() => null);
      if (!made || over !== i) return;
      tip?.remove();
      tip = made;
      tip.classList.add("tip");
      tip.style.left = `${Math.min(px + 14, Math.max(0, stage.clientWidth - 250))}px`;
      tip.style.top = `${py + 14}px`;
      stage.append(tip);
      const room = stage.clientHeight - tip.offsetHeight - 4;
      tip.style.top = `${Math.max(2, Math.min(py + 14, room))}px`;
    }, 60);
  }

  async function pick(i) {
    mark(i);
    const made = await attempt(() => card(map.numbers[i], { full: true }));
    if (made) place(side, made);
  }

  function select(indices) {
    chosen = indices;
    save.hidden = gallery.hidden = !indices.length;
    total.textContent = indices.length ? `${count(indices.length)} record${indices.length > 1 ? "s" : ""} selected${indices.length > 300 ? ", of which 300 are listed" : ""}` : "Nothing is selected. Click a point to see its record.";
    total.dataset.selected = indices.length;
    list.replaceChildren(...indices.slice(0, 300).map((i) => el("li", {}, el("button", { type: "button", onclick: () => pick(i) }, name(i)))));
    if (indices.length) attempt(async () => {
      const asked = indices.slice(0, 300).filter((i) => !names[i]);
      const keys = !asked.length ? [] : await ask(`/view/keys?${asked.map((i) => `n=${map.numbers[i]}`).join("&")}`);
      asked.forEach((i, j) => { names[i] = keys[j]; });
      if (chosen === indices) [...list.querySelectorAll("button")].forEach((button, j) => { button.textContent = name(indices[j]); });
    });
    shade();
  }
  function numbers() { return chosen.map((i) => map.numbers[i]); }
  function name(i) { return names[i] || `record ${map.numbers[i]}`; }

  await load("");
  if (record != null) await attempt(() => find(record));
  return () => scatter?.close();
}
