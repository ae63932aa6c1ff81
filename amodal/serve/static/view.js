// The frame of the page: tabs, and what all of them use.

export const about = await (await fetch("/view/about")).json();
export const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b8a800", "#7b5fc4", "#8c5a3c", "#e0455a", "#3fae3f", "#5f7f8f"];
export const MISSING = "#8a8f98";

/** An element: el("p", {class: "faint"}, "text", child, …); names that begin with "on" are listeners. */
export function el(name, attributes = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...inside.filter((part) => part != null));
  return made;
}

export function say(text) { document.getElementById("status").textContent = text; }

/** JSON of a route; asks again while the server computes (202). */
export async function ask(path, options) {
  for (let wait = 150; ; wait = Math.min(wait * 1.5, 2000)) {
    const answer = await fetch(path, options);
    const body = await answer.json();
    if (answer.status === 202) { await new Promise((done) => setTimeout(done, wait)); continue; }
    if (!answer.ok) throw new Error(body.error || answer.statusText);
    return body;
  }
}

/** Numbers from base64 of their bytes, which are those of a typed array. */
export function unpack(text, Kind) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Kind(bytes.buffer);
}

/** JSON of a route that takes JSON. */
export const post = (path, content) => ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(content) });

/** Saves the answer of a route that takes JSON as a file. */
export async function download(name, path, content) {
  const answer = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(content) });
  if (answer.status === 202) { await new Promise((done) => setTimeout(done, 500)); return download(name, path, content); }
  if (!answer.ok) throw new Error((await answer.json()).error);
  const link = el("a", { href: URL.createObjectURL(await answer.blob()), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Runs what a person asked for, and says what went wrong. */
export async function attempt(work) {
  try { say(""); return await work(); } catch (error) { say(error.message); }
}

const seen = new Map();
export function record(number) {
  if (!seen.has(number)) {
    if (seen.size > 2000) seen.clear();
    seen.set(number, ask(`/view/record/${number}`));
  }
  return seen.get(number);
}

/** A record as its fields show themselves. note: beside its name; only: a field, else all; full: with labels and what can be done. */
export async function card(number, { note = "", only = "", full = false } = {}) {
  const it = await record(number);
  const fields = Object.entries(it.fields).filter(([name]) => !only || name === only);
  const shown = fields.map(([name, field]) => shownField(number, name, field, full));
  const made = el("article", { class: "card", "data-number": number }, el("h3", {}, it.key, note && el("span", { class: "faint" }, ` ${note}`)),
    el("div", { class: "fields" }, ...shown));
  if (full) {
    const pairs = Object.entries(it.labels).flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v == null ? "–" : typeof v === "number" ? Number(v.toPrecision(5)).toLocaleString("en", { useGrouping: Math.abs(v) >= 1e4 }) : v)]);
    made.append(el("dl", {}, ...pairs));
  }
  if (full && about.tabs.includes("search"))
    made.append(el("div", { class: "do" },
      el("button", { type: "button", onclick: () => open("search", { like: number }) }, "Search like this"),
      el("button", { type: "button", onclick: () => open("map", { record: number }) }, "On the map"),
      el("button", { type: "button", onclick: () => open("fields", { record: number }) }, "By field")));
  return made;
}

/** Puts a card where it is looked for; on a narrow screen that is below, and the page goes there. */
export function place(where, ...cards) {
  where.replaceChildren(...cards);
  if (matchMedia("(max-width: 50rem)").matches) where.scrollIntoView({ block: "nearest" });
}

const FEW = 8; // cells of a table on a small card

function shownField(number, name, field, full) {
  const caption = el("figcaption", {}, name);
  if (field.text != null) return el("figure", {}, caption, el("p", {}, full ? field.text : field.text.slice(0, 160)));
  if (field.cells) {
    const cells = Object.entries(field.cells), shown = full ? cells : cells.slice(0, FEW), long = shown.length > FEW;
    return el("figure", {}, caption, el("dl", long ? { class: "long", tabindex: 0, role: "region", "aria-label": `${name} of record ${number}` } : {}, ...shown.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])),
      cells.length > shown.length ? el("p", { class: "faint" }, `and ${cells.length - shown.length} more`) : null);
  }
  if (field.curves) return el("figure", {}, caption, plot(name, field, full));
  const url = `/view/record/${number}/${encodeURIComponent(name)}`;
  const parts = [caption, el("img", { src: `${url}.png?v=${about.stamp}`, alt: `${name}: ${field.says}`, loading: "lazy" })];
  if (field.plays) parts.push(el("audio", { src: `${url}.wav?v=${about.stamp}`, controls: true, preload: "none", "aria-label": `${name} of record ${number}` }));
  return el("figure", {}, ...parts);
}

export function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v);
  if (text != null) made.textContent = text;
  return made;
}

/** Curves of a series; named: with what each of them is. */
export function plot(name, field, named) {
  const { names, values } = field.curves, all = values.flat().filter((v) => v != null);
  const low = Math.min(...all), span = Math.max(...all) - low || 1, last = Math.max(1, values[0].length - 1);
  const drawn = svg("svg", { viewBox: "0 0 160 80", class: "plot", role: "img", "aria-label": `${name}: ${field.says}` });
  values.forEach((channel, c) => {
    let down = false;
    const d = channel.map((v, i) => {
      if (v == null) { down = false; return ""; }
      const step = `${down ? "L" : "M"}${(2 + (156 * i) / last).toFixed(1)} ${(77 - (74 * (v - low)) / span).toFixed(1)}${down ? "" : "h.1"}`;
      down = true;
      return step;
    }).join("");
    drawn.append(svg("path", { d, stroke: PALETTE[c % PALETTE.length] }));
  });
  if (!named) return drawn;
  const legend = el("div", { class: "legend" }, ...names.slice(0, 12).map((n, c) => { const mark = el("i"); mark.style.background = PALETTE[c % PALETTE.length]; return el("span", {}, mark, n); }),
    names.length > 12 ? el("span", { class: "faint" }, `and ${names.length - 12} more`) : null);
  return el("div", {}, drawn, legend);
}

/** A number as people read it. */
export function short(v) {
  return Math.abs(v) >= 1e6 || (v && Math.abs(v) < 1e-3) ? v.toExponential(1) : Number(v.toPrecision(3)).toLocaleString("en");
}
export const count = (n) => n.toLocaleString("en");

/** choices: [value, text, heading of the group it is in, if any]. */
export function chooser(label, choices, change, chosen) {
  const groups = new Map();
  const select = el("select", { onchange: () => change(select.value) });
  for (const [value, text, group] of choices) {
    const option = el("option", { value, selected: value === chosen }, text);
    if (!group) { select.append(option); continue; }
    if (!groups.has(group)) { groups.set(group, el("optgroup", { label: group })); select.append(groups.get(group)); }
    groups.get(group).append(option);
  }
  return el("label", {}, label, select);
}

/** A field for a record's name that offers those that hold what is typed: its elements, and what its button does. act: called with the number. */
export function recordField(todo, act, id = "find") {
  const key = el("input", { type: "text", id, "aria-label": "a record's name", placeholder: "a record's name", list: `${id}-keys`, autocomplete: "off" });
  const keys = el("datalist", { id: `${id}-keys` });
  const matches = (text) => ask(`/view/find?key=${encodeURIComponent(text)}`);
  const go = async () => {
    const [first] = key.value ? await matches(key.value) : [];
    if (!first) throw new Error(key.value ? `no record's name holds ${key.value}` : "type a part of a record's name first");
    key.value = "";
    await act(first.number);
  };
  key.addEventListener("input", () => attempt(async () => {
    if (key.value.length > 1) keys.replaceChildren(...(await matches(key.value)).map((it) => el("option", { value: it.key })));
  }));
  key.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); attempt(go); } });
  return { parts: [key, keys, el("button", { type: "button", onclick: () => attempt(go) }, todo)], key, go };
}

export const FIELDS = [["", "all fields, fused"], ...(about.indexed || []).map((s) => [s, s])];

/** A button that shows records in the gallery. records: () => their numbers; title: () => where they are from. */
export function galleryButton(records, title, text = "Show in the gallery") {
  return el("button", { type: "button", onclick: () => open("gallery", { records: records(), title: title() }) }, text);
}

const NAMES = { compare: "Compare", map: "Map", gallery: "Gallery", search: "Search", run: "Run", yardsticks: "Yardsticks", records: "Records", fields: "Fields" };
const tabs = document.getElementById("tabs"), main = document.getElementById("main");
let leave = () => {};

export async function open(name, state = {}) {
  leave();
  leave = () => {};
  say("");
  for (const tab of tabs.children) {
    const on = tab.dataset.tab === name;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
    if (on) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  const page = el("section", { role: "tabpanel", "aria-labelledby": `tab-${name}`, "data-tab": name });
  main.replaceChildren(page);
  history.replaceState(null, "", `#${name}`);
  const module = await import(`./${name}.js`);
  const left = await attempt(() => module.draw(page, state));
  if (page.isConnected) leave = left || (() => {}); else if (left) left();
}

function start() {
  document.getElementById("title").textContent = [about.run, about.method, about.data, about.records ? `${count(about.records)} records` : ""].filter(Boolean).join(" · ");
  document.title = `${about.run} · amodal`;
  for (const name of about.tabs)
    tabs.append(el("button", { role: "tab", id: `tab-${name}`, "data-tab": name, type: "button", onclick: () => open(name) }, NAMES[name]));
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const all = [...tabs.children], now = all.indexOf(document.activeElement);
    const next = all[(now + step + all.length) % all.length];
    next.focus();
    open(next.dataset.tab);
  });
  const asked = location.hash.slice(1);
  open(about.tabs.includes(asked) ? asked : about.tabs[0]);
}
// After this module is whole: the pages import from it.
setTimeout(start);
