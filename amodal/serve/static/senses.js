import { about, ask, attempt, card, chooser, el } from "./view.js";

export async function draw(page, { record } = {}) {
  let on = new Set(about.indexed), number = record ?? 0, label = Object.keys(about.labels)[0];
  const tried = el("tbody"), near = el("div", { class: "cards", "aria-live": "polite" }), shown = el("div"), heat = el("div");
  const boxes = about.indexed.map((sense) => {
    const box = el("input", { type: "checkbox", checked: true, onchange: () => {
      box.checked ? on.add(sense) : on.delete(sense);
      if (!on.size) { box.checked = true; on.add(sense); }
      attempt(change);
    } });
    return el("label", {}, box, sense);
  });
  const key = el("input", { type: "text", "aria-label": "a record's name", placeholder: "part of a record's name", onchange: () => attempt(async () => {
    const [first] = await ask(`/view/find?key=${encodeURIComponent(key.value)}`);
    if (!first) throw new Error(`no record is called ${key.value}`);
    number = first.number;
    await neighbours();
  }) });
  page.append(
    el("fieldset", { class: "bar" }, el("legend", {}, "Senses that count"), ...boxes),
    el("div", { class: "split" },
      el("section", {}, el("h2", {}, "Who is near"), el("div", { class: "bar" }, key, el("button", { type: "button", onclick: () => attempt(async () => { number = Math.floor(Math.random() * about.records); await neighbours(); }) }, "Another record")), shown, el("h2", {}, "its nearest, by these senses"), near),
      el("aside", {}, el("h2", {}, "What neighbours tell"), label ? chooser("of", Object.keys(about.labels).map((n) => [n, n]), (v) => { label = v; tried.replaceChildren(); attempt(probe); }, label) : el("p", { class: "faint" }, "The data have no labels."),
        el("table", {}, el("thead", {}, el("tr", {}, ...["senses", "measure", "chance", "records"].map((c) => el("th", { scope: "col" }, c)))), tried),
        el("p", { class: "faint" }, "A vote of the 20 nearest records that are not of the test part, for those that are."), heat)));

  const asked = () => [...on].map((s) => `on=${encodeURIComponent(s)}`).join("&");

  async function neighbours() {
    const [made, found] = await Promise.all([card(number, { full: true }), ask(`/view/near/${number}?${asked()}`)]);
    shown.replaceChildren(made);
    near.replaceChildren(...await Promise.all(found.map((hit) => card(hit.number, { note: hit.score.toFixed(3) }))));
    if (!found.length) near.append(el("p", { class: "faint" }, "This record has none of these senses."));
  }

  async function probe() {
    if (!label) return;
    const name = about.indexed.filter((s) => on.has(s)).join(" + ");
    const found = await ask(`/view/probe?label=${encodeURIComponent(label)}&${asked()}`);
    if ([...tried.rows].some((row) => row.cells[0].textContent === name)) return;
    tried.prepend(el("tr", {}, el("td", {}, name), ...(found.metric ? [`${found.metric} ${found.value.toFixed(3)}`, found.chance.toFixed(3), found.n] : ["nothing to test", "", ""]).map((c) => el("td", {}, String(c)))));
  }

  async function change() { await Promise.all([neighbours(), probe()]); }

  const rows = await ask("/view/missing");
  if (rows.length) heat.replaceChildren(el("h2", {}, "With senses missing"), missing(rows));
  await change();
}

/** Subsets of senses down, what was measured across. */
function missing(rows) {
  const heading = (r) => [r.label, r.probe, r.target && `find ${r.target}`, r.metric].filter(Boolean).join(" ");
  const across = [...new Set(rows.map(heading))], down = [...new Set(rows.map((r) => r.source))];
  const cells = new Map(rows.map((r) => [`${r.source} ${heading(r)}`, r]));
  const shade = (r, all) => {
    const values = all.map((c) => c.value), low = Math.min(...values), span = Math.max(...values) - low || 1;
    return `hsl(${40 + 110 * ((r.value - low) / span)} 65% 72%)`;
  };
  const cell = (source, column) => {
    const r = cells.get(`${source} ${column}`);
    if (!r) return el("td", {}, "–");
    const made = el("td", { class: "heat", title: `chance ${r.chance?.toFixed(3) ?? "?"}` }, r.value.toFixed(3));
    made.style.background = shade(r, rows.filter((o) => heading(o) === column));
    return made;
  };
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "with senses missing" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "has only"), ...across.map((c) => el("th", { scope: "col" }, c)))),
    el("tbody", {}, ...down.map((s) => el("tr", {}, el("th", { scope: "row" }, s), ...across.map((c) => cell(s, c)))))));
}
