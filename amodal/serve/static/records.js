import { about, ask, attempt, card, chooser, el, galleryButton, place, FIELDS } from "./view.js";

const LISTS = [["quarantine", "Values that could not be read", "Every value of the data that was read could be decoded."],
  ["near_duplicates", "Near duplicates", "No two records are so alike."],
  ["outliers", "Unlike all others", "There are too few records."]];

export async function draw(page) {
  let field = "", least = 0.99;
  const shown = el("div", { "aria-live": "polite" }, el("p", { class: "faint" }, "Choose a record of a list to see it.")), sections = el("div");
  const level = el("input", { type: "number", min: 0.5, max: 1, step: 0.005, value: least, onchange: () => { least = level.value; attempt(fill); } });
  const few = about.shown < about.records ? el("p", { class: "faint" }, `Of the ${about.records.toLocaleString("en")} records, the ${about.shown.toLocaleString("en")} on the map are compared with each other.`) : null;
  page.append(el("div", { class: "bar" }, chooser("By", FIELDS, (v) => { field = v; attempt(fill); }, ""), el("label", {}, "near duplicates from a cosine of", level)), ...(few ? [few] : []),
    el("div", { class: "split" }, sections, el("aside", { "aria-label": "record" }, shown)));

  async function fill() {
    const asked = `field=${encodeURIComponent(field)}&least=${least}`;
    const boxes = LISTS.map(([what, title]) => el("section", { "data-list": what }, el("h2", {}, title), el("p", { class: "faint" }, "computing …")));
    sections.replaceChildren(...boxes);
    await Promise.all(LISTS.map(async ([what, title, none], k) => {
      const list = await ask(`/view/list/${what}?${asked}`);
      const rows = list.rows.slice(0, 200).map((row, i) => el("tr", {}, ...row.map((cell, j) => {
        const number = list.numbers[i][j] ?? -1;
        return el("td", {}, number >= 0 ? el("button", { type: "button", onclick: () => attempt(() => look(list.numbers[i])) }, cell) : String(cell));
      })));
      const more = list.rows.length > rows.length ? `, of which ${rows.length} are shown` : "";
      boxes[k].replaceChildren(el("h2", {}, `${title} `, el("span", { class: "faint" }, `${list.more ? "the first " : ""}${list.rows.length.toLocaleString("en")}${more}`)));
      if (!rows.length) { boxes[k].append(el("p", { class: "faint" }, none)); return; }
      const numbers = [...new Set(list.numbers.flat().filter((n) => n >= 0))];
      boxes[k].append(el("div", { class: "bar" }, el("a", { href: `/view/csv/${what}?${asked}`, download: `${what}.csv` }, "Save the list as CSV"), numbers.length ? galleryButton(() => numbers, () => title.toLowerCase()) : null),
        el("div", { class: "scroll", tabindex: 0, "aria-label": title, role: "region" },
          el("table", {}, el("thead", {}, el("tr", {}, ...list.columns.map((c) => el("th", { scope: "col" }, c)))), el("tbody", {}, ...rows))));
    }));
  }

  async function look(numbers) {
    place(shown, ...await Promise.all(numbers.filter((n) => n >= 0).map((n) => card(n, { full: true }))));
  }
  await fill();
}
