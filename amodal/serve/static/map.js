import { about, ask, attempt, card, chooser, count, download, el, galleryButton, place, recordField, unpack, FIELDS } from "./view.js";
import { key, middles, shades } from "./legend.js";
import { Scatter } from "./scatter.js";

export async function draw(page, { record } = {}) {
  const names = {};
  let scatter, map, colour, chosen = [], marked = -1, field = "";
  let by = about.colour;
  const stage = el("div", { class: "stage" }), legend = el("div"), side = el("div", { "aria-live": "polite" });
  const list = el("ul", { class: "list", "aria-label": "selected records" }), total = el("p", { class: "faint" }), note = el("p", { class: "faint" });
  const save = el("button", { type: "button", hidden: true, onclick: () => attempt(() => download("selection.csv", "/view/selection", numbers())) }, "Save the selection as CSV");
  const gallery = galleryButton(numbers, () => "a selection on the map");
  gallery.hidden = true;
  const only = new Set(); // codes of the legend that are shown; none: all
  const choices = [["cluster", "clusters of the map", "fields"], ...Object.keys(about.labels).map((n) => [`label:${n}`, n, "labels"]),
    ...about.indexed.map((s) => [`has:${s}`, `has ${s}?`, "fields"]), ["count", "how many fields", "fields"],
    ["agreement", "do fields agree on neighbours?", "fields"],
    ...Object.keys(about.attributes).map((n) => { const field = n.split(".")[0]; return [`data:${n}`, n, field in about.fields ? `data: ${field}` : "data: other columns"]; })];
  const naming = el("button", { type: "button", "aria-pressed": "true", onclick: () => { naming.setAttribute("aria-pressed", naming.getAttribute("aria-pressed") !== "true"); shade(); } }, "Names");
  const dense = el("button", { type: "button", "aria-pressed": "false", title: "how many points lie where, in place of the points", onclick: () => {
    scatter.density = !scatter.density;
    dense.setAttribute("aria-pressed", scatter.density);
    scatter.draw();
  } }, "Density");
  const lassoing = el("button", { type: "button", "aria-pressed": "false", onclick: () => {
    scatter.lassoing = !scatter.lassoing;
    lassoing.setAttribute("aria-pressed", scatter.lassoing);
  } }, "Lasso");
  page.append(
    el("div", { class: "bar" }, chooser("Map of", FIELDS, (v) => attempt(() => load(v)), field), chooser("Colour", choices, (v) => attempt(() => paint(v)), by), ...recordField("Find", find, "find-on-map").parts, naming, dense, lassoing,
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
    const computed = points(await ask(asked));
    if (!page.isConnected || field !== of) return;
    if (by === "cluster") colour = null; // they are of this field's vectors
    show(computed);
    select([]);
    if (!colour) attempt(() => paint(by)); // clusters may take longer than the map
    if (!map.final) attempt(async () => { // UMAP is not there yet: these are the principal components
      const better = points(await ask(`${asked}&best=true`));
      if (page.isConnected && field === of) { const selected = chosen; show(better); select(selected); }
    });
  }

  /** A map as typed arrays, with coordinates from 0 to 1. */
  function points(sent) {
    const unit = (text) => Float32Array.from(unpack(text, Uint16Array), (n) => n / 65535);
    return { ...sent, numbers: unpack(sent.numbers, Uint32Array), places: unpack(sent.places, Uint32Array), x: unit(sent.x), y: unit(sent.y) };
  }

  function show(computed) {
    const number = marked >= 0 && map ? map.numbers[marked] : -1;
    map = computed;
    scatter?.close();
    stage.replaceChildren();
    scatter = new Scatter(stage, map.x, map.y, { hover, pick, lasso: select, label: `map of ${map.numbers.length} records`, kind: location.search.slice(1) });
    scatter.density = dense.getAttribute("aria-pressed") === "true";
    stage.dataset.kind = scatter.kind;
    stage.dataset.points = map.numbers.length;
    const few = map.numbers.length < map.of ? `${count(map.numbers.length)} of ${count(map.of)} records are drawn, chosen by chance; Search and Find see all of them. ` : "";
    note.textContent = few + (map.projection === "umap" ? "UMAP" : "Principal components") + (field ? ` of ${field}` : " of all fields") + (map.final ? "." : ", until UMAP is done.");
    mark(number >= 0 ? map.numbers.indexOf(number) : -1);
    fill();
  }

  async function paint(choice) {
    by = choice;
    const of = field, tints = await ask(`/view/colour?by=${encodeURIComponent(choice === "cluster" ? `cluster:${of}` : choice)}`);
    if (by !== choice || field !== of || !page.isConnected) return;
    colour = { ...tints, values: unpack(tints.values, tints.kind === "classes" ? Int16Array : Float32Array) };
    only.clear();
    fill();
  }

  function fill() {
    shade();
    legend.replaceChildren(colour ? key(colour, map.places, only, () => { shade(); select(chosen.filter((i) => !scatter.ignored[i])); }) : el("p", { class: "faint" }, "finding clusters …"));
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
    if (!scatter) return;
    const names = colour && naming.getAttribute("aria-pressed") === "true" ? middles(colour, map.places, only) : [];
    scatter.paint(...shades(colour, map.places, only, chosen), names);
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
