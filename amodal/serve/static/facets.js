// Filters: a part for each property of records, whose values are asked for when it is opened. Each shows how many records pass the others.

import { brushed } from "./histogram.js";
import { ask, attempt, count, el, post, say, short } from "./view.js";

const FEW = 12; // values above which they can be narrowed by typing

/** where: facet -> condition, changed in place; query: all that is asked for, as JSON; change: called after a change. Its element, and how to show the values of tags anew, or all counts. */
export async function facets(where, query, change) {
  const all = await ask("/view/facets"), boxes = new Map();
  const text = el("input", { type: "search", value: where.key?.holds ?? "", placeholder: "a part of the name", onchange: () => set("key", text.value.trim() ? { holds: text.value.trim() } : null) });
  const of = (kind) => all.filter(({ by }) => by.split(":")[0] === kind).map(box);
  const data = of("data");
  const side = el("div", { class: "facets" }, el("label", {}, "Name holds", text), ...of("label"), ...of("part"), ...of("tag"), ...of("has"),
    data.length ? el("details", {}, el("summary", {}, `What the data say (${data.length})`), ...data) : null,
    el("button", { type: "button", onclick: clear }, "Clear all filters"));

  function set(by, condition) {
    if (condition) where[by] = condition;
    else delete where[by];
    boxes.get(by)?.note();
    change();
    recount();
  }

  function clear() {
    for (const by of Object.keys(where)) delete where[by];
    text.value = "";
    for (const one of boxes.values()) { one.note(); one.fill(); }
    change();
  }

  function recount() { for (const one of boxes.values()) one.recount(); }

  function box({ by, name, kind }) {
    const note = el("span", { class: "faint" }), inside = el("div", { class: "facet" });
    let show = () => {}, turn = 0;
    const made = el("details", { "data-facet": by, open: Boolean(where[by]), ontoggle: () => { if (made.open && !inside.childElementCount) fill(); } }, el("summary", {}, name, " ", note), inside);
    const fill = () => { if (made.open) attempt(async () => {
      if (!inside.childElementCount) inside.replaceChildren(el("p", { class: "faint" }, "reading the data …"));
      const about = await ask(`/view/facet?by=${encodeURIComponent(by)}`);
      const [parts, showing] = kind === "number" ? range(by, name, about) : classes(by, name, about);
      inside.replaceChildren(...parts);
      show = showing;
      recount();
    }); else inside.replaceChildren(); };
    const recount = async () => {
      if (!made.open || !inside.childElementCount) return;
      const mine = ++turn;
      try {
        const counted = await post(`/view/counts?by=${encodeURIComponent(by)}`, query());
        if (mine === turn) show(counted);
      } catch (error) { say(error.message); } // what was said before stays where there is none
    };
    boxes.set(by, { fill, recount, note: () => { note.textContent = inWords(where[by]); } });
    boxes.get(by).note();
    if (made.open) fill();
    return made;
  }

  function classes(by, name, about) {
    const chosen = new Set(where[by]?.any || []);
    const amounts = [];
    const line = (value, title, number) => {
      const amount = el("span", { class: "faint" }, count(number));
      amounts.push(amount);
      const check = el("input", { type: "checkbox", checked: chosen.has(value), onchange: () => {
        if (check.checked) chosen.add(value); else chosen.delete(value);
        set(by, chosen.size ? { any: [...chosen] } : null);
      } });
      return el("label", { "data-value": value ?? "" }, check, el("span", value == null ? { class: "faint" } : {}, title), amount);
    };
    const lines = about.names.map(([value, number]) => line(value, value, number));
    const absent = about.missing ? [line(null, by === "tag" ? "without a tag" : "not known", about.missing)] : [];
    const show = ({ counts, missing }) => [...counts, missing].slice(0, amounts.length).forEach((n, i) => { amounts[i].textContent = count(n); });
    if (!lines.length && by === "tag") return [[el("p", { class: "faint" }, "There is no tag yet. Select records, and tag them.")], show];
    const narrow = lines.length > FEW ? [el("input", { type: "search", "aria-label": `narrow the values of ${name}`, placeholder: "narrow", oninput: (event) => {
      const asked = event.target.value.toLowerCase();
      for (const one of lines) one.hidden = !one.dataset.value.toLowerCase().includes(asked);
    } })] : [];
    const more = about.more ? [el("p", { class: "faint" }, `and ${count(about.more)} rarer values`)] : [];
    return [[...narrow, el("div", { class: "values" }, ...lines, ...absent), ...more], show];
  }

  function range(by, name, about) {
    const input = (part, edge) => el("input", { type: "number", step: "any", "aria-label": `${part} of ${name}`, placeholder: short(about[edge]), value: where[by]?.[part], onchange: changed });
    const least = input("least", "low"), most = input("most", "high");
    const missing = el("input", { type: "checkbox", checked: where[by]?.missing, onchange: changed });
    const histogram = brushed(about, (a, b) => { least.value = a ?? ""; most.value = b ?? ""; changed(); }, name);
    function changed() {
      const asked = {};
      if (least.value !== "") asked.least = Number(least.value);
      if (most.value !== "") asked.most = Number(most.value);
      if (missing.checked) asked.missing = true;
      histogram.mark(asked.least, asked.most);
      set(by, "least" in asked || "most" in asked ? asked : null);
    }
    histogram.mark(where[by]?.least, where[by]?.most);
    const absent = about.missing ? el("span", {}, `and the ${count(about.missing)} without it`) : null;
    const show = (counted) => { histogram.show(counted.counts); if (absent) absent.textContent = `and the ${count(counted.missing)} without it`; };
    return [[histogram.drawn, el("div", { class: "range" }, least, "to", most), absent ? el("label", {}, missing, absent) : null].filter(Boolean), show];
  }

  return { side, recount, fresh: (by) => boxes.get(by)?.fill() };
}

/** A condition in a few words. */
function inWords(condition) {
  if (!condition) return "";
  if (condition.any) return condition.any.length === 1 ? condition.any[0] ?? "not known" : `${condition.any.length} chosen`;
  return [condition.least != null && `≥ ${short(condition.least)}`, condition.most != null && `≤ ${short(condition.most)}`].filter(Boolean).join(", ");
}
