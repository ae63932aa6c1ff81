import { about, ask, attempt, card, chooser, el, MISSING, PALETTE, SENSES } from "./view.js";
import { Scatter } from "./scatter.js";

const HEAT = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"].map(rgb); // viridis
function rgb(hex) { return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)); }
function heat(share) {
  const at = Math.max(0, Math.min(1, share)) * (HEAT.length - 1), i = Math.min(HEAT.length - 2, Math.floor(at));
  return HEAT[i].map((v, c) => v + (HEAT[i + 1][c] - v) * (at - i));
}

export async function draw(page) {
  const names = {};
  let scatter, map, colour, chosen = [], by = Object.keys(about.labels).map((n) => `label:${n}`).find((n) => about.labels[n.slice(6)] === "classes") || "count", sense = "";
  const stage = el("div", { class: "stage" }), legend = el("div", { class: "legend" }), side = el("div", { "aria-live": "polite" });
  const list = el("ul", { class: "list", "aria-label": "selected records" }), count = el("p", { class: "faint" }), note = el("span", { class: "faint" });
  const choices = [...Object.keys(about.labels).map((n) => [`label:${n}`, n]), ...about.indexed.map((s) => [`has:${s}`, `has ${s}?`]),
    ["count", "how many senses"], ["agreement", "do senses agree on neighbours?"]];
  const lassoing = el("button", { type: "button", "aria-pressed": "false", onclick: () => {
    scatter.lassoing = !scatter.lassoing;
    lassoing.setAttribute("aria-pressed", scatter.lassoing);
  } }, "Lasso");
  page.append(
    el("div", { class: "bar" }, chooser("Map of", SENSES, (v) => attempt(() => load(v)), sense), chooser("Colour", choices, (v) => attempt(() => paint(v)), by), lassoing,
      el("button", { type: "button", onclick: () => select(scatter.inView()) }, "Select what is in view"),
      el("button", { type: "button", onclick: () => { scatter.home(); select([]); } }, "Reset"), note),
    el("div", { class: "split" },
      el("div", {}, stage, legend, el("p", { class: "faint" }, "Drag to move, wheel or + and − to zoom, Shift-drag for a lasso; on the keyboard arrows, +, −, 0, and Enter for the record in the middle.")),
      el("aside", { "aria-label": "records" }, side, count, list)));

  async function load(of) {
    sense = of;
    Object.keys(names).forEach((i) => delete names[i]);
    stage.replaceChildren(el("p", { class: "faint" }, " computing …"));
    map = await ask(`/view/map?sense=${encodeURIComponent(of)}`);
    if (!page.isConnected) return;
    scatter?.close();
    stage.replaceChildren();
    const unit = (v) => Float32Array.from(v, (n) => n / 65535);
    scatter = new Scatter(stage, unit(map.x), unit(map.y), { hover, pick, lasso: select, label: `map of ${map.numbers.length} records`, flat: location.search === "?flat" });
    stage.dataset.kind = scatter.kind;
    stage.dataset.points = map.numbers.length;
    note.textContent = map.numbers.length < map.of ? `${map.numbers.length.toLocaleString("en")} of ${map.of.toLocaleString("en")} records` : "";
    select([]);
    await paint(by);
  }

  async function paint(choice) {
    by = choice;
    colour = await ask(`/view/colour?by=${encodeURIComponent(by)}`);
    shade();
    legend.replaceChildren(...key());
  }

  function shade() {
    if (!colour || !scatter) return;
    const bytes = new Uint8Array(4 * map.numbers.length), on = new Set(chosen), grey = rgb(MISSING), names = PALETTE.map(rgb);
    map.numbers.forEach((number, i) => {
      const value = colour.values[number];
      const there = colour.kind === "classes" ? value >= 0 : value != null;
      const paint = !there ? grey : colour.kind === "numbers" ? heat((value - colour.low) / (colour.high - colour.low || 1)) : names[value % names.length];
      bytes.set([...paint, on.size && !on.has(i) ? 28 : there ? 225 : 110], 4 * i);
    });
    scatter.paint(bytes);
  }

  function key() {
    const dot = (tint, text) => { const mark = el("i"); mark.style.background = tint; return el("span", {}, mark, text); };
    if (colour.kind === "classes") {
      const found = colour.names.slice(0, PALETTE.length).map((name, i) => dot(PALETTE[i], name));
      if (colour.names.length > PALETTE.length) found.push(el("span", { class: "faint" }, `and ${colour.names.length - PALETTE.length} rarer in the same colours`));
      return colour.values.includes(-1) ? [...found, dot(MISSING, "not known")] : found;
    }
    const strip = el("canvas", { width: 100, height: 1, role: "img", "aria-label": "from low to high" }), pen = strip.getContext("2d");
    for (let i = 0; i < 100; i++) { pen.fillStyle = `rgb(${heat(i / 99).map(Math.round)})`; pen.fillRect(i, 0, 1, 1); }
    return [colour.low.toPrecision(3), strip, colour.high.toPrecision(3), dot(MISSING, "not known")];
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
    scatter.mark(i);
    const made = await attempt(() => card(map.numbers[i], { full: true }));
    if (made) side.replaceChildren(made);
  }

  function select(indices) {
    chosen = indices;
    count.textContent = indices.length ? `${indices.length.toLocaleString("en")} records selected` : "Nothing is selected. Click a point to see its record.";
    count.dataset.selected = indices.length;
    list.replaceChildren(...indices.slice(0, 300).map((i) => el("li", {}, el("button", { type: "button", onclick: () => pick(i) }, name(i)))));
    if (indices.length) attempt(async () => {
      const asked = indices.slice(0, 300).filter((i) => !names[i]);
      const keys = !asked.length ? [] : await ask(`/view/keys?${asked.map((i) => `n=${map.numbers[i]}`).join("&")}`);
      asked.forEach((i, at) => { names[i] = keys[at]; });
      if (chosen === indices) [...list.querySelectorAll("button")].forEach((button, at) => { button.textContent = name(indices[at]); });
    });
    shade();
  }
  function name(i) { return names[i] || `record ${map.numbers[i]}`; }

  await load("");
  return () => scatter?.close();
}
