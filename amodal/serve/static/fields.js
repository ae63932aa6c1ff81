import { about, ask, attempt, card, chooser, el, recordField } from "./view.js";

export async function draw(page, { record } = {}) {
  const on = new Set(about.indexed), labels = Object.keys(about.labels);
  let number = record ?? about.first, label = labels[0];
  const tried = el("tbody"), near = el("div", { class: "cards", "aria-live": "polite" }), shown = el("div");
  const pairs = el("div", { "aria-live": "polite" }), byMissing = el("div");
  const boxes = about.indexed.map((field) => {
    const box = el("input", { type: "checkbox", checked: true, onchange: () => {
      box.checked ? on.add(field) : on.delete(field);
      if (!on.size) { box.checked = true; on.add(field); }
      attempt(change);
    } });
    return el("label", {}, box, field);
  });
  const few = about.shown < about.records ? ` Of the ${about.records.toLocaleString("en")} records, the ${about.shown.toLocaleString("en")} on the map are measured.` : "";
  page.append(
    el("fieldset", { class: "bar" }, el("legend", {}, "Fields that count"), ...boxes),
    el("div", { class: "split wide" },
      el("section", {}, el("h2", {}, "Who is near"),
        el("div", { class: "bar" }, ...recordField("Show", go, "by-field").parts, el("button", { type: "button", onclick: () => attempt(() => go(Math.floor(Math.random() * about.records))) }, "Another record")),
        shown, el("h2", { class: "next" }, "Its nearest, by these fields"), near),
      el("aside", {},
        el("h2", {}, "Nearest-neighbour probe"), label ? chooser("of", labels.map((n) => [n, n]), (v) => { label = v; tried.replaceChildren(); attempt(async () => { await Promise.all([measured(), missing()]); }); }, label) : el("p", { class: "faint" }, "The data have no labels."),
        el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "what was tried" }, el("table", {}, el("thead", {}, el("tr", {}, ...["fields", "probe", "chance", "retrieval (R@10)"].map((c) => el("th", { scope: "col" }, c)))), tried)),
        el("p", { class: "faint" }, `Of the records of the test part: a vote of the 20 nearest that are not of it, and the mean share of those whose other field is among the 10 nearest.${few}`),
        el("h2", {}, "Which field finds which"), pairs, byMissing)));

  const asked = () => [...on].map((s) => `on=${encodeURIComponent(s)}`).join("&");
  const chosen = () => about.indexed.filter((s) => on.has(s));
  const named = () => {
    const off = about.indexed.filter((s) => !on.has(s));
    return about.indexed.length < 5 || off.length > 2 ? chosen().join(" + ") : off.length ? `all but ${off.join(" and ")}` : "all fields";
  };

  async function go(to) { number = to; await neighbours(); }

  async function neighbours() {
    const [made, hits] = await Promise.all([card(number, { full: true }), ask(`/view/near/${number}?${asked()}`)]);
    shown.replaceChildren(made);
    near.replaceChildren(...await Promise.all(hits.map((hit) => card(hit.number, { note: hit.score.toFixed(3) }))));
    if (!hits.length) near.append(el("p", { class: "faint" }, "This record has none of these fields."));
  }

  /** Probe and retrieval of the fields that are on: a row for each choice that was made, the last one first. */
  async function measured() {
    const name = named(), fields = chosen();
    const [probe, retrieval] = await Promise.all([label ? ask(`/view/probe?label=${encodeURIComponent(label)}&${asked()}`) : {}, ask(`/view/retrieval?${asked()}`)]);
    if (name !== named()) return;
    const one = retrieval.filter((r) => r.source), mean = one.reduce((sum, r) => sum + r.value, 0) / one.length;
    const cells = [name, probe.metric ? `${probe.metric} ${probe.value.toFixed(3)}` : "–", probe.metric ? probe.chance.toFixed(3) : "–", one.length ? mean.toFixed(3) : "–"];
    [...tried.rows].filter((row) => row.cells[0].textContent === name).forEach((row) => row.remove());
    tried.prepend(el("tr", {}, ...cells.map((c, i) => el("td", { title: i === 1 && probe.n ? `${probe.n} records` : false }, c))));
    const few = "Two fields are needed, and ten test records that have both.";
    pairs.replaceChildren(!retrieval.length ? el("p", { class: "faint" }, few) : grid("R@10 of each pair of fields", "by", retrieval.map((r) => ({ ...r, down: r.source || "all the others", across: `find ${r.target}` })), { across: fields.map((s) => `find ${s}`), down: [...fields, "all the others"] }));
  }

  async function missing() {
    const { reported, rows } = await ask(`/view/missing?label=${encodeURIComponent(label || "")}`);
    const heading = (r) => [r.label, r.probe, r.target && `find ${r.target}`, r.metric].filter(Boolean).join(" ");
    const shape = (r) => ({ ...r, down: r.source, across: heading(r) });
    byMissing.replaceChildren(...(rows.length ? [el("h2", {}, "With fields missing"), grid("with fields missing, by neighbours", "has only", rows.map(shape), { counted: true }),
      el("p", { class: "faint" }, "By neighbours, as above; of the records that have any of these fields. The stronger the colour, the better in its column.")] : []),
      ...(reported.length ? [el("h2", {}, "With fields missing, as evaluate measured"), grid("with fields missing, as reported", "has only", reported.map(shape))] : []));
  }

  async function change() { await Promise.all([neighbours(), measured()]); }

  await Promise.all([change(), missing()]);
}

/** A table of colours. rows: {down, across, value, chance, n}; across, down: in which order; counted: with the number of records. */
function grid(name, corner, rows, { across, down, counted } = {}) {
  const has = (which) => (v) => rows.some((r) => r[which] === v);
  across = across || [...new Set(rows.map((r) => r.across))];
  down = (down || [...new Set(rows.map((r) => r.down))]).filter(has("down"));
  const cells = new Map(rows.map((r) => [`${r.down} ${r.across}`, r]));
  const cell = (source, column) => {
    const r = cells.get(`${source} ${column}`);
    if (!r) return el("td", { class: "none" }, "–");
    const all = rows.filter((o) => o.across === column).map((o) => o.value), low = Math.min(...all), span = Math.max(...all) - low;
    const made = el("td", { class: "heatmap", title: `chance ${r.chance?.toFixed(3) ?? "?"}, ${r.n ?? "?"} records` }, r.value.toFixed(3));
    made.style.setProperty("--share", `${Math.round(span ? 8 + 47 * ((r.value - low) / span) : 30)}%`);
    return made;
  };
  const heading = (text) => el("th", { scope: "col" }, text);
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, el("table", {},
    el("thead", {}, el("tr", {}, heading(corner), ...across.map(heading), ...(counted ? [heading("records")] : []))),
    el("tbody", {}, ...down.map((s) => el("tr", {}, el("th", { scope: "row" }, s), ...across.map((c) => cell(s, c)),
      ...(counted ? [el("td", { class: "none" }, String(cells.get(`${s} ${across[0]}`)?.n ?? "–"))] : []))))));
}
