import { ask, el, PALETTE, short, svg } from "./view.js";
import { chart } from "./chart.js";

const EVERY = 4000;

export async function draw(page) {
  let timer = 0, before = "";

  async function show() {
    const now = await ask("/view/comparison"), text = JSON.stringify(now);
    if (text !== before) page.replaceChildren(...parts(now));
    before = text;
    return now;
  }

  async function poll() {
    let over = false;
    try { over = (await show()).finished; } catch { /* the server was stopped, or is busy: the next look may find it */ }
    if (page.isConnected && !over) timer = setTimeout(poll, EVERY);
  }
  if (!(await show()).finished) timer = setTimeout(poll, EVERY);
  return () => clearTimeout(timer);
}

function parts(now) {
  const ranked = now.entries.filter((e) => e.value != null);
  const rest = now.entries.filter((e) => e.value == null);
  const left = Object.entries(now.left_out);
  const curves = ranked.map((e) => ({ name: e.name, runs: [points(e)] })).filter((line) => line.runs[0].length > 1).slice(0, PALETTE.length);
  const scored = now.test == null ? "" : ` On the test part, once: ${short(now.test)}.`;
  return [
    el("h2", {}, `${now.data} · ${now.title}`),
    el("p", { id: "sentence" }, `${now.sentence[0]?.toUpperCase()}${now.sentence.slice(1)}.${scored}`, now.summary ? el("span", { class: "faint" }, ` ${now.summary}`) : ""),
    now.run ? el("p", {}, "The best that was trained is ready: ", el("code", {}, `amodal evaluate ${now.run} --data DIR`), ", ", el("code", {}, `amodal adapt ${now.run} --data DIR --label LABEL --out OUT`)) : null,
    Object.keys(now.frozen).length ? el("p", { class: "faint" }, `Frozen encoders: ${Object.entries(now.frozen).map(([field, spec]) => `${field} by ${spec}`).join(", ")}.`) : null,
    now.finished ? null : el("p", { class: "faint", "aria-live": "polite" }, "Still comparing; this page follows."),
    el("div", { class: "split wide" }, el("div", {}, table(ranked, rest, now.choice)), el("div", { class: "charts" }, ranked.length ? intervals([...ranked].sort((a, b) => b.value - a.value), now.choice) : null,
      curves.length ? chart("On validation records, while training", curves, []) : null)),
    left.length ? el("details", {}, el("summary", {}, `Left out (${left.length})`), el("dl", {}, ...left.flatMap(([name, reason]) => [el("dt", {}, name), el("dd", {}, reason)]))) : null,
  ].filter((part) => part != null);
}

/** [[step, mean of what was measured], …] of an entry. */
function points(entry) {
  return entry.curve.map(([step, values]) => {
    const all = (typeof values === "object" && values ? Object.values(values) : [values]).filter((v) => Number.isFinite(v));
    return [step, all.length ? all.reduce((a, b) => a + b) / all.length : NaN];
  }).filter(([, value]) => Number.isFinite(value));
}

const half = (e) => (Number.isFinite(e.half) ? e.half : 0);

function table(ranked, rest, choice) {
  const free = [...new Set(ranked.flatMap((e) => Object.keys(e.label_free)))];
  const heading = (text) => el("th", { scope: "col" }, text);
  const cell = (text) => el("td", { class: "none" }, text);
  const row = (e) => el("tr", e.name === choice ? { class: "chosen", "aria-current": "true" } : {}, el("th", { scope: "row" }, e.name),
    el("td", { class: "value" }, e.value == null ? "–" : `${e.value.toFixed(3)}${half(e) ? ` ±${half(e).toFixed(3)}` : ""}`),
    cell(e.kind === "candidate" ? e.features : e.kind), cell(e.alone == null || e.features === "alone" ? "" : e.alone.toFixed(3)),
    cell(e.steps ? e.steps.toLocaleString("en") : ""), cell(e.seconds ? short(e.seconds) : ""), cell(e.megabytes ? Math.round(e.megabytes).toLocaleString("en") : ""),
    ...free.map((name) => cell(e.label_free[name] == null ? "" : short(e.label_free[name]))), el("td", { class: "faint" }, e.kind === "candidate" && e.state !== "done" ? e.state : ""));
  return el("div", { class: "whole", tabindex: 0, role: "region", "aria-label": "all candidates" }, el("table", {},
    el("thead", {}, el("tr", {}, ...["", "on validation", "features", "alone", "steps", "s", "MB", ...free, ""].map(heading))),
    el("tbody", {}, ...[...ranked, ...rest].map(row))));
}

const W = 340, L = 120, R = 10, ROW = 18;

/** Values with their 95 % intervals, one below the other; yardsticks are hollow. */
function intervals(ranked, choice) {
  const low = Math.min(...ranked.map((e) => e.value - half(e))), high = Math.max(...ranked.map((e) => e.value + half(e)));
  const x = (v) => L + ((v - low) / (high - low || 1)) * (W - L - R), H = ROW * ranked.length + 24;
  const drawn = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Values with intervals: ${ranked.map((e) => `${e.name} ${e.value.toFixed(3)}`).join(", ")}` });
  ranked.forEach((e, i) => {
    const y = ROW * i + 12, trained = e.kind === "candidate", tint = trained ? PALETTE[0] : PALETTE[4];
    const name = svg("text", { x: L - 8, y: y + 3.5, "text-anchor": "end", ...(e.name === choice ? { class: "chosen" } : {}) }, e.name.length > 21 ? `${e.name.slice(0, 20)}…` : e.name);
    drawn.append(name, svg("path", { d: `M${x(e.value - half(e)).toFixed(1)} ${y}H${x(e.value + half(e)).toFixed(1)}`, stroke: tint }),
      svg("circle", { cx: x(e.value).toFixed(1), cy: y, r: 4, stroke: tint, "stroke-width": 1.7, fill: trained ? tint : "none" }));
  });
  drawn.append(svg("path", { class: "axis", d: `M${L} ${H - 18}H${W - R}` }), svg("text", { x: L, y: H - 5 }, short(low)), svg("text", { x: W - R, y: H - 5, "text-anchor": "end" }, short(high)));
  return el("figure", { class: "card" }, el("h3", {}, "Values and 95 % intervals"), drawn, el("figcaption", { class: "legend" }, key(PALETTE[0], "trained here"), key(PALETTE[4], "yardsticks")));
}

function key(tint, text) {
  const mark = el("i");
  mark.style.background = tint;
  return el("span", {}, mark, text);
}
