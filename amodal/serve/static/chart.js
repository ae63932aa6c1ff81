// A chart of lines over steps: smoothing, a log scale, values under a cursor that all charts of a page share.

import { count, el, PALETTE, short, svg } from "./view.js";

const W = 340, H = 150, L = 44, B = 18;
export const DASHES = ["5 4", "1.5 3", "9 3 2 3"];

/** What all charts of a page share. smoothing: weight of what was before, 0 to below 1; log: the scale, where all values are above 0. */
export class Shared {
  constructor() { Object.assign(this, { smoothing: 0, log: false, step: null, charts: [] }); }

  /** Moves the cursor of all charts; null: away. */
  move(step) {
    this.step = step;
    for (const one of this.charts) one(step);
  }
}

/** The mean of the values so far, each weighted by smoothing to the power of its age. */
export function smoothed(run, smoothing) {
  if (!smoothing) return run;
  let sum = 0, weight = 0;
  return run.map(([step, value]) => {
    sum = smoothing * sum + value;
    weight = smoothing * weight + 1;
    return [step, sum / weight];
  });
}

/** The point of a line that is nearest to a step. */
export function nearest(run, step) {
  let low = 0, high = run.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (run[middle][0] < step) low = middle + 1; else high = middle;
  }
  return low && step - run[low - 1][0] <= run[low][0] - step ? run[low - 1] : run[low];
}

/** lines: a name and, of each run, [[step, value], …]; others: the runs after this one; shared: a `Shared`. */
export function chart(title, lines, others, shared = new Shared()) {
  const smooth = lines.map((line) => line.runs.map((run) => smoothed(run, shared.smoothing)));
  const points = lines.flatMap((l) => l.runs.flat()), drawn = smooth.flat(2);
  const steps = points.map((p) => p[0]), log = shared.log && points.every((p) => p[1] > 0);
  const scaled = log ? Math.log10 : (v) => v, values = (shared.smoothing ? drawn : points).map((p) => scaled(p[1]));
  const [s0, s1] = [least(steps), most(steps)];
  let [v0, v1] = [least(values), most(values)];
  if (v0 === v1) { v0 -= 0.5; v1 += 0.5; }
  const x = (s) => L + ((s - s0) / (s1 - s0 || 1)) * (W - L - 6), y = (v) => H - B - ((scaled(v) - v0) / (v1 - v0)) * (H - B - 8);
  const inside = (v) => Math.max(0, Math.min(H, y(v)));
  const end = (run) => (run.length ? short(run.at(-1)[1]) : "–"), unscaled = (v) => short(log ? 10 ** v : v);
  const plane = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", tabindex: 0, "data-title": title, "aria-label": `${title}: at last ${lines.map((l) => `${l.name || title} ${end(l.runs[0])}`).join(", ")}. Arrows show values.` });
  plane.append(svg("path", { class: "axis", d: `M${L} 4V${H - B}H${W - 4}` }));
  for (const [v, baseline] of [[v1, 12], [v0, H - B]]) plane.append(svg("text", { x: L - 4, y: baseline, "text-anchor": "end" }, unscaled(v)));
  plane.append(svg("text", { x: L, y: H - 4 }, `step ${count(s0)}`), svg("text", { x: W - 4, y: H - 4, "text-anchor": "end" }, count(s1)));
  const path = (run, tint, attributes) => svg("path", { stroke: tint, d: run.map(([s, v], j) => `${j ? "L" : "M"}${x(s).toFixed(1)} ${inside(v).toFixed(1)}`).join("") + (run.length === 1 ? "h2" : ""), ...attributes });
  const legend = el("figcaption", { class: "legend" }), cells = [];
  lines.forEach((line, i) => {
    const tint = PALETTE[i % PALETTE.length];
    line.runs.forEach((run, r) => {
      if (!run.length) return;
      if (shared.smoothing) plane.append(path(run, tint, { class: "raw" }));
      plane.append(path(smooth[i][r], tint, r ? { class: "other", "stroke-dasharray": DASHES[r - 1] } : {}));
    });
    const mark = el("i"), text = el("span"), rest = el("span", { class: "faint" });
    mark.style.background = tint;
    cells.push([text, rest]);
    legend.append(el("span", {}, mark, lines.length > 1 ? `${line.name} ` : "", text, rest));
  });
  const cursor = svg("path", { class: "cursor", d: "" }), over = el("span", { class: "faint step" });
  plane.append(cursor);

  function show(step) {
    lines.forEach((line, i) => {
      const value = (r) => { const run = smooth[i][r]; return !run.length || (step != null && (step < run[0][0] || step > run.at(-1)[0])) ? "–" : short((step == null ? run.at(-1) : nearest(run, step))[1]); };
      const raw = shared.smoothing && line.runs[0].length ? ` (raw ${step == null ? end(line.runs[0]) : short(nearest(line.runs[0], step)[1])})` : "";
      cells[i][0].textContent = value(0);
      cells[i][1].textContent = `${raw}${others.length ? ` (${line.runs.slice(1).map((_, r) => value(r + 1)).join("; ")})` : ""}`;
    });
    cursor.setAttribute("d", step == null ? "" : `M${x(step).toFixed(1)} 4V${H - B}`);
    over.textContent = step == null ? "" : ` step ${count(step)}`;
  }
  const all = [...new Set(steps)].sort((a, b) => a - b), by = all.map((s) => [s]);
  plane.addEventListener("pointermove", (event) => {
    const box = plane.getBoundingClientRect(), px = ((event.clientX - box.left) / box.width) * W;
    shared.move(nearest(by, s0 + ((px - L) / (W - L - 6)) * (s1 - s0))[0]);
  });
  plane.addEventListener("pointerleave", () => shared.move(null));
  plane.addEventListener("blur", () => shared.move(null));
  plane.addEventListener("keydown", (event) => {
    const place = shared.step == null ? all.length : all.indexOf(nearest(by, shared.step)[0]);
    const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Escape") shared.move(null);
    else if (to == null) return;
    else shared.move(all[Math.max(0, Math.min(all.length - 1, to))]);
    event.preventDefault();
    spoken.textContent = shared.step == null ? "" : `step ${shared.step}: ${lines.map((line, i) => `${line.name || title} ${cells[i][0].textContent}`).join(", ")}`;
  });
  const spoken = el("span", { class: "unseen", "aria-live": "polite" });
  show(shared.step);
  shared.charts.push(show);
  return el("figure", { class: "card" }, el("h3", {}, title, over), plane, legend, shared.log && !log ? el("p", { class: "faint" }, "Linear: some values are not above 0.") : null, spoken);
}

const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity), most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
