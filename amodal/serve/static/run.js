import { ask, chooser, el, PALETTE } from "./view.js";

const GROUPS = [["loss", "Loss"], ["loss/", "Terms of the loss"], ["rank/", "Effective rank"], ["std/", "Deviation of each dimension"], ["uniformity/", "Uniformity"],
  ["alignment/", "Alignment"], ["conflict/", "Gradient conflict"], ["gradient_norm", "Gradient norm"], ["lr", "Learning rate"], ["rows_per_second", "Rows a second"], ["data_wait", "Share of time waiting for data"]];
const EVERY = 2000;

export async function draw(page) {
  const charts = el("div", { class: "charts" }), status = el("span", { "aria-live": "polite" });
  let mine = await ask("/view/run"), other = null, timer = 0;
  const names = await ask("/view/runs");
  const compare = names.length ? chooser("Compare with", [["", "no other run"], ...names.map((n) => [n, n])], async (name) => {
    other = name ? await ask(`/view/runs/${encodeURIComponent(name)}`) : null;
    show();
  }, "") : null;
  page.append(el("div", { class: "bar" }, status, compare), charts);

  function show() {
    status.textContent = `${mine.method} · step ${mine.last}${mine.steps ? ` of ${mine.steps}` : ""} · ${mine.status}`;
    const all = [...new Set([...Object.keys(mine.columns), ...Object.keys(other?.columns || {})])];
    const taken = new Set(["seconds"]), made = [];
    const groups = [...GROUPS, ...[...new Set(all.map((n) => n.split("/")[0]))].map((n) => [n.includes("/") ? n : all.includes(n) ? n : `${n}/`, n])];
    for (const [start, title] of groups) {
      const inside = all.filter((n) => !taken.has(n) && (start.endsWith("/") ? n.startsWith(start) : n === start));
      inside.forEach((n) => taken.add(n));
      if (inside.length) made.push(chart(title, inside.map((n) => ({ name: n.replace(/^.*?\//, ""), mine: mine.columns[n] || [], other: other?.columns[n] || [] })), other && { mine: mine.name, other: other.name }));
    }
    charts.replaceChildren(...made);
  }

  async function poll() {
    try {
      const more = await ask(`/view/run?since=${mine.last}`);
      const fresh = more.last > mine.last || more.status !== mine.status;
      for (const [name, points] of Object.entries(more.columns)) (mine.columns[name] ||= []).push(...points);
      Object.assign(mine, { last: more.last, status: more.status });
      if (fresh) show();
    } catch { /* the server was stopped, or is busy: the next look may find it */ }
    if (page.isConnected) timer = setTimeout(poll, mine.status === "done" ? 5 * EVERY : EVERY);
  }
  show();
  timer = setTimeout(poll, EVERY);
  return () => clearTimeout(timer);
}

const W = 340, H = 150, L = 44, B = 18;

function svg(name, given, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [k, v] of Object.entries(given)) made.setAttribute(k, v);
  if (text != null) made.textContent = text;
  return made;
}

const short = (v) => Math.abs(v) >= 1e4 || (v && Math.abs(v) < 1e-3) ? v.toExponential(1) : String(Number(v.toPrecision(3)));

function chart(title, lines, runs) {
  const points = lines.flatMap((l) => [...l.mine, ...l.other]);
  const steps = points.map((p) => p[0]), values = points.map((p) => p[1]);
  const [s0, s1] = [Math.min(...steps), Math.max(...steps)];
  let [v0, v1] = [Math.min(...values), Math.max(...values)];
  if (v0 === v1) { v0 -= 0.5; v1 += 0.5; }
  const x = (s) => L + ((s - s0) / (s1 - s0 || 1)) * (W - L - 6), y = (v) => H - B - ((v - v0) / (v1 - v0)) * (H - B - 8);
  const last = lines.map((l) => `${l.name || title} ${l.mine.length ? short(l.mine.at(-1)[1]) : "–"}`).join(", ");
  const drawn = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}: at last ${last}` });
  drawn.append(svg("path", { class: "axis", d: `M${L} 4V${H - B}H${W - 4}` }));
  for (const [v, at] of [[v1, 12], [v0, H - B]]) drawn.append(svg("text", { x: L - 4, y: at, "text-anchor": "end" }, short(v)));
  drawn.append(svg("text", { x: L, y: H - 4 }, `step ${s0}`), svg("text", { x: W - 4, y: H - 4, "text-anchor": "end" }, s1));
  const legend = el("figcaption", { class: "legend" });
  lines.forEach((line, i) => {
    const tint = PALETTE[i % PALETTE.length];
    for (const [run, which] of [["mine", ""], ["other", "other"]])
      if (line[run].length) drawn.append(svg("path", { class: which, stroke: tint, d: line[run].map(([s, v], j) => `${j ? "L" : "M"}${x(s).toFixed(1)} ${y(v).toFixed(1)}`).join("") + (line[run].length === 1 ? "h2" : "") }));
    const mark = el("i");
    mark.style.background = tint;
    legend.append(el("span", {}, mark, lines.length > 1 || runs ? line.name : "", ` ${line.mine.length ? short(line.mine.at(-1)[1]) : ""}`, runs && line.other.length ? ` (${short(line.other.at(-1)[1])})` : ""));
  });
  if (runs) legend.append(el("span", { class: "faint" }, `dashed, in brackets: ${runs.other}`));
  return el("figure", { class: "card" }, el("h3", {}, title), drawn, legend);
}
