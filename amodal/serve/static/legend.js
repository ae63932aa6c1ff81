// Colours of points, and the legend, which filters.

import { rgb, viridis } from "./colours.js";
import { count, el, MISSING, PALETTE, short } from "./view.js";

const MOST_NAMES = 24; // that are written on the map
const SHADES = 256; // of a number's colour
function isKnown(colour, value) { return !colour || (colour.kind === "classes" ? value >= 0 : Number.isFinite(value)); }
function shadeOf(value, { low, high }) { return Math.round(Math.max(0, Math.min(1, (value - low) / (high - low || 1))) * (SHADES - 1)); }

/** (4 n) bytes of colour, and (n) bytes of what the legend leaves out. colour: null before it is known; places: of the points in it; only: codes that are shown, all if none; chosen: indices. */
export function shades(colour, places, only, chosen) {
  const n = places.length, bytes = new Uint8Array(4 * n), ignored = new Uint8Array(n), on = chosen.length ? new Uint8Array(n) : null;
  for (const i of chosen) on[i] = 1;
  const tints = colour?.kind === "numbers" ? Array.from({ length: SHADES }, (_, k) => viridis(k / (SHADES - 1))) : PALETTE.map(rgb), grey = rgb(MISSING), plain = rgb(PALETTE[0]);
  for (let i = 0; i < n; i++) {
    const value = colour?.values[places[i]], known = isKnown(colour, value);
    const tint = !colour ? plain : !known ? grey : tints[colour.kind === "numbers" ? shadeOf(value, colour) : value % tints.length];
    ignored[i] = only.size && !only.has(known ? value : -1) ? 1 : 0;
    bytes[4 * i] = tint[0]; bytes[4 * i + 1] = tint[1]; bytes[4 * i + 2] = tint[2];
    bytes[4 * i + 3] = ignored[i] ? 10 : on && !on[i] ? 28 : known ? 225 : 110;
  }
  return [bytes, ignored];
}

/** [name, indices of its points] of the classes that are shown, the largest first. */
export function middles(colour, places, only) {
  if (colour.kind !== "classes") return [];
  const members = colour.names.map(() => []);
  for (let i = 0; i < places.length; i++) { const code = colour.values[places[i]]; if (code >= 0 && (!only.size || only.has(code))) members[code].push(i); }
  return members.map((indices, code) => [colour.names[code], indices]).filter(([, indices]) => indices.length).sort((a, b) => b[1].length - a[1].length).slice(0, MOST_NAMES);
}

/** The legend: of classes, buttons that show some of them alone; change: called after that. */
export function key(colour, places, only, change) {
  const dot = (tint, text) => { const mark = el("i"); mark.style.background = tint; return el("span", {}, mark, text); };
  if (colour.kind === "numbers") {
    const strip = el("canvas", { width: 100, height: 1, role: "img", "aria-label": "from low to high" }), pen = strip.getContext("2d");
    for (let i = 0; i < 100; i++) { pen.fillStyle = `rgb(${viridis(i / 99).map(Math.round)})`; pen.fillRect(i, 0, 1, 1); }
    return el("div", { class: "legend" }, `${colour.clipped ? "≤ " : ""}${short(colour.low)}`, strip, `${colour.clipped ? "≥ " : ""}${short(colour.high)}`, colour.values.some((v) => !Number.isFinite(v)) ? dot(MISSING, "not known") : null);
  }
  const total = new Map();
  for (const place of places) total.set(colour.values[place], (total.get(colour.values[place]) || 0) + 1);
  const buttons = [...colour.names.keys(), -1].filter((code) => total.has(code)).sort((a, b) => (b >= 0) - (a >= 0) || total.get(b) - total.get(a)).map((code) => {
    const button = el("button", { type: "button", "aria-pressed": String(only.has(code)), "data-code": code, title: "show this alone, or with others", onclick: () => {
      only.has(code) ? only.delete(code) : only.add(code);
      mark();
      change();
    } }, dot(code < 0 ? MISSING : PALETTE[code % PALETTE.length], code < 0 ? "not known" : colour.names[code]), el("span", { class: "faint" }, count(total.get(code))));
    return button;
  });
  const all = el("button", { type: "button", onclick: () => { only.clear(); mark(); change(); } }, "Show all");
  function mark() {
    for (const button of buttons) button.setAttribute("aria-pressed", only.has(Number(button.dataset.code)));
    all.hidden = !only.size;
  }
  mark();
  return el("div", { class: "legend filters", role: "group", "aria-label": "legend: press a class to show it alone" }, ...buttons, all);
}
