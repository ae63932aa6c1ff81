// Gallery: thumbnails of records, with filters, sorting, a selection and tags.

import { about, ask, attempt, card, chooser, count, el, open, plot, post, short } from "./view.js";
import { facets } from "./facets.js";
import { tagging } from "./tagging.js";

const PAGE = 48, CHUNK = 24;
const NARROW = "(max-width: 50rem)";

export async function draw(page, state = {}) {
  const store = `gallery ${about.stamp}`, before = state.records || state.where ? {} : JSON.parse(sessionStorage.getItem(store) || "{}");
  const { where = state.where || {}, title = state.title || "", records = state.records || null } = before;
  const now = { where, title, records, field: about.pictured, sort: "", descending: false, start: 0, ...before };
  const chosen = new Map(); // number -> key
  let everything = false, total = 0, shown = [], turn = 0, current = 0, opened = 0, playing = null;

  const query = () => ({ where: now.where, sort: now.sort, descending: now.descending, ...(now.records ? { records: now.records } : {}) });
  const size = () => (everything ? total : chosen.size);
  const sum = el("p", { id: "sum", "aria-live": "polite" }), pages = el("div", { class: "bar" });
  const amount = el("span", { id: "amount", "aria-live": "polite" }), tiles = el("ul", { class: "tiles", "aria-label": "records", onkeydown: keys });
  const viewer = el("dialog", { "aria-label": "record", onclose: () => focus(opened), // the browser goes back to the tile that opened it
    onkeydown: (event) => { const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]; if (step) { event.preventDefault(); attempt(() => look(opened + step)); } } });
  const tags = tagging({ number: size, changed: async () => { filters.fresh("tag"); await load(); }, show: (tag) => open("gallery", { where: { tag: { any: [tag] } } }),
    selected: () => (everything ? { query: query() } : chosen.size ? { records: [...chosen.keys()] } : null) });
  const filters = await facets(now.where, query, () => { now.start = 0; reset(); attempt(load); });
  const listed = await ask("/view/facets");
  const sortings = [["", "the order of the data"], ["key", "name"], ...listed.filter(({ by }) => by !== "tag").map(({ by, name }) => [by, name, by.split(":")[0] === "data" ? "what the data say" : "records"])];
  const flip = el("button", { type: "button", "aria-pressed": String(now.descending), onclick: () => { now.descending = !now.descending; flip.setAttribute("aria-pressed", now.descending); attempt(first); } }, "Largest first");
  const drop = el("button", { type: "button", onclick: () => { Object.assign(now, { records: null, title: "" }); attempt(first); filters.recount(); } }, "Show all records");
  const side = el("details", { class: "filters", open: !matchMedia(NARROW).matches }, el("summary", {}, "Filters"), filters.side);

  page.append(
    el("div", { class: "bar" }, chooser("Show", about.in_data.map((n) => [n, n]), (v) => { now.field = v; attempt(load); }, now.field), chooser("Sort by", sortings, (v) => { now.sort = v; attempt(first); }, now.sort), flip, drop),
    el("div", { class: "split gallery" }, side,
      el("div", {}, sum, el("div", { class: "bar" }, amount, button("Select this page", () => { shown.forEach((it) => chosen.set(it.number, it.key)); everything = false; mark(); }), button("Select all", () => { chosen.clear(); everything = true; mark(); }), button("Select none", () => { reset(); mark(); })),
        tags.bar, tags.tags, tiles, pages, el("p", { class: "faint" }, "On the keyboard arrows move, Enter opens a record, x selects it, Page Up and Page Down turn the page."))), viewer);

  function button(text, act) { return el("button", { type: "button", onclick: act }, text); }
  function reset() { chosen.clear(); everything = false; }
  function first() { now.start = 0; return load(); }

  async function load() {
    const mine = ++turn;
    tiles.setAttribute("aria-busy", "true");
    sessionStorage.setItem(store, JSON.stringify(now.records?.length > 20000 ? { ...now, records: null, title: "" } : now));
    const waiting = setTimeout(() => { sum.textContent = "reading the data …"; }, 400);
    let result;
    try { result = await post(`/view/gallery?start=${now.start}&count=${PAGE}`, query()); } finally { clearTimeout(waiting); }
    if (mine !== turn || !page.isConnected) return;
    if (now.start && now.start >= result.total) return first();
    ({ total, records: shown } = result);
    current = 0;
    const from = now.records ? `${count(now.records.length)} of ${now.title}` : `${count(about.records)} records`;
    const filtered = Object.keys(now.where).length > 0;
    sum.textContent = filtered ? `${count(total)} of ${from}` : from;
    sum.dataset.total = total;
    drop.hidden = !now.records;
    side.firstChild.textContent = filtered ? `Filters (${Object.keys(now.where).length})` : "Filters";
    tiles.replaceChildren(...shown.map(tile));
    if (!shown.length) tiles.append(el("li", { class: "faint" }, filtered ? "No record passes these filters." : "There is no record."));
    turns();
    mark();
    tiles.removeAttribute("aria-busy");
    await pictures(mine);
  }

  function tile(it, i) {
    const box = el("input", { type: "checkbox", "aria-label": `select ${it.key}`, tabindex: i ? -1 : 0, onchange: () => toggle(i) });
    const value = now.sort && now.sort !== "key" ? [el("span", { class: "faint" }, it.value == null ? "not known" : typeof it.value === "number" ? short(it.value) : it.value)] : [];
    return el("li", { "data-number": it.number }, el("button", { type: "button", class: "tile", tabindex: i ? -1 : 0, onclick: () => attempt(() => look(i)), onfocus: () => here(i) }, el("span", { class: "picture" }), el("span", { class: "name" }, it.key), ...value),
      it.tags.length ? el("span", { class: "marks" }, ...it.tags.map((tag) => el("span", {}, tag))) : null, box);
  }

  /** What the field shows in them, some at a time. */
  async function pictures(mine) {
    for (let i = 0; i < shown.length && mine === turn; i += CHUNK) {
      const some = shown.slice(i, i + CHUNK), field = now.field;
      const values = await ask(`/view/tiles?field=${encodeURIComponent(field)}&${some.map((it) => `n=${it.number}`).join("&")}`);
      if (mine !== turn || !page.isConnected) return;
      values.forEach((it, j) => {
        const item = tiles.children[i + j];
        item.querySelector(".picture").replaceChildren(picture(it, field));
        if (it.plays) item.append(el("button", { type: "button", class: "play", tabindex: -1, "aria-label": `play ${some[j].key}`, onclick: () => play(it.number, field) }, "▶"));
      });
    }
  }

  function play(number, field) {
    playing?.pause();
    playing = new Audio(`/view/record/${number}/${encodeURIComponent(field)}.wav?v=${about.stamp}`);
    attempt(() => playing.play());
  }

  function mark() {
    [...tiles.querySelectorAll("li[data-number]")].forEach((item, i) => {
      const on = everything || chosen.has(shown[i].number);
      item.classList.toggle("chosen", on);
      item.querySelector("input").checked = on;
    });
    amount.textContent = `${count(size())} selected`;
    amount.dataset.selected = size();
  }

  function toggle(i) {
    const { number, key } = shown[i];
    if (everything) { everything = false; shown.forEach((it) => chosen.set(it.number, it.key)); } // all of this page but one
    if (chosen.has(number)) chosen.delete(number); else chosen.set(number, key);
    mark();
  }

  function turns() {
    const last = Math.max(0, Math.ceil(total / PAGE) - 1), here = now.start / PAGE;
    const go = (to) => { now.start = Math.max(0, Math.min(last, to)) * PAGE; return load(); };
    const turn = (text, to) => el("button", { type: "button", disabled: to < 0 || to > last || to === here, onclick: () => attempt(() => go(to)) }, text);
    pages.replaceChildren(...(last ? [turn("First", 0), turn("Previous", here - 1), el("span", {}, `page ${count(here + 1)} of ${count(last + 1)}`), turn("Next", here + 1), turn("Last", last)] : []));
    pages.go = (step) => attempt(async () => { if (here + step < 0 || here + step > last) return; await go(here + step); focus(0); });
  }

  /** One tile and its box can be reached by Tab; arrows go on from there. */
  function here(i) {
    for (const [place, tab] of [[current, -1], [i, 0]]) tiles.children[place]?.querySelectorAll(".tile, input, .play").forEach((part) => { part.tabIndex = tab; });
    current = i;
  }
  function focus(i) { tiles.children[i]?.querySelector(".tile")?.focus(); }

  function keys(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !shown.length) return;
    const row = [...tiles.children].filter((item) => item.offsetTop === tiles.children[0].offsetTop).length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row, Home: -current, End: shown.length - 1 - current }[event.key];
    if (step != null) focus(Math.max(0, Math.min(shown.length - 1, current + step)));
    else if (event.key === "x") toggle(current);
    else if (event.key === "PageDown" || event.key === "PageUp") pages.go(event.key === "PageDown" ? 1 : -1);
    else return;
    event.preventDefault();
  }

  /** Opens a record of this page with all that it has. */
  async function look(i) {
    if (!shown[i]) return;
    const it = shown[i], made = await card(it.number, { full: true });
    if (shown[i] !== it) return;
    here(i);
    opened = i;
    const box = el("input", { type: "checkbox", checked: everything || chosen.has(it.number), onchange: () => toggle(i) });
    const step = (text, to) => el("button", { type: "button", disabled: !shown[to], onclick: () => attempt(() => look(to)) }, text);
    const words = [it.part ? `part: ${it.part}` : "not in this data", it.tags.length ? `tags: ${it.tags.join(", ")}` : "without a tag"].join(" · ");
    viewer.replaceChildren(el("div", { class: "bar" }, step("Previous", i - 1), step("Next", i + 1), el("label", {}, box, "selected"), el("button", { type: "button", onclick: () => viewer.close() }, "Close")), made, el("p", { class: "faint" }, words));
    if (!viewer.open) viewer.showModal();
  }

  tags.fill().then((number) => { if (number) tags.tags.open = Boolean(now.where.tag); });
  await load();
  return () => { turn = -1; playing?.pause(); };
}

function picture(it, field) {
  if (it.reason) return el("span", { class: "faint" }, it.reason);
  if (it.text != null) return el("span", { class: "words" }, it.text);
  if (it.cells) return el("span", { class: "words" }, ...Object.entries(it.cells).map(([name, value]) => el("span", {}, el("span", { class: "faint" }, `${name} `), value)), it.more ? el("span", { class: "faint" }, `and ${it.more} more`) : null);
  if (it.curves) return plot(field, it, false);
  return el("img", { src: `/view/thumbnail/${it.number}/${encodeURIComponent(field)}?v=${about.stamp}`, alt: `${field}: ${it.says}`, loading: "lazy" });
}
