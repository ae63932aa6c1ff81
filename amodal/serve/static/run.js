import { about, ask, attempt, el, PALETTE, short, svg } from "./view.js";

const GROUPS = [["loss", "Loss"], ["loss/", "Terms of the loss"], ["rank/", "Effective rank"], ["std/", "Deviation of each dimension"], ["uniformity/", "Uniformity"],
  ["alignment/", "Alignment"], ["conflict/", "Gradient conflict"], ["gradient_norm", "Gradient norm"], ["lr", "Learning rate"], ["rows_per_second", "Rows a second"], ["data_wait", "Share of time waiting for data"]];
const EVERY = 2000;
const DASHES = ["5 4", "1.5 3", "9 3 2 3"];

export async function draw(page) {
  const charts = el("div", { class: "charts" }), status = el("p", { "aria-live": "polite" }), differ = el("div");
  const [mine, names] = await Promise.all([ask("/view/run"), ask("/view/runs")]);
  let others = [], timer = 0;
  const boxes = names.map((name) => {
    const box = el("input", { type: "checkbox", onchange: () => attempt(async () => {
      if (box.checked && others.length === DASHES.length) { box.checked = false; throw new Error(`up to ${DASHES.length} other runs are laid over this one`); }
      others = box.checked ? [...others, await ask(`/view/runs/${encodeURIComponent(name)}`)] : others.filter((run) => run.name !== name);
      show();
    }) });
    return el("label", {}, box, name);
  });
  page.append(status, names.length ? el("details", { class: "compare" }, el("summary", {}, `Compare with other runs in the same folder (${names.length})`), el("div", { class: "bar" }, ...boxes)) : el("p", { class: "faint" }, "Runs in the same folder could be compared here; there is no other."), differ, charts);

  function show() {
    const over = mine.steps && mine.last >= mine.steps, done = mine.status === "done" || over;
    status.textContent = `${mine.method} · step ${mine.last.toLocaleString("en")}${mine.steps ? ` of ${mine.steps.toLocaleString("en")}` : ""} · ${mine.status}${!about.records && done ? ". Start amodal view again to see its records." : ""}`;
    status.dataset.step = mine.last;
    const all = [...new Set([mine, ...others].flatMap((run) => Object.keys(run.columns)))];
    const taken = new Set(["seconds"]), made = [];
    const groups = [...GROUPS, ...[...new Set(all.map((n) => n.split("/")[0]))].map((n) => [all.includes(n) ? n : `${n}/`, n])];
    for (const [start, title] of groups) {
      const inside = all.filter((n) => !taken.has(n) && (start.endsWith("/") ? n.startsWith(start) : n === start));
      inside.forEach((n) => taken.add(n));
      if (inside.length) made.push(chart(title, inside.map((n) => ({ name: n.replace(/^.*?\//, ""), runs: [mine, ...others].map((run) => run.columns[n] || []) })), others));
    }
    charts.replaceChildren(...made);
    if (!made.length) charts.append(el("p", { class: "faint" }, "Nothing has been measured yet."));
    differ.replaceChildren(...(others.length ? [differences([mine, ...others])] : []));
  }

  async function more(run, path) {
    const update = await ask(`${path}?since=${run.last}`);
    const fresh = update.last > run.last || update.status !== run.status;
    for (const [name, points] of Object.entries(update.columns)) (run.columns[name] ||= []).push(...points);
    return Object.assign(run, { last: update.last, status: update.status }) && fresh;
  }

  async function poll() {
    try {
      const fresh = await Promise.all([more(mine, "/view/run"), ...others.map((run) => more(run, `/view/runs/${encodeURIComponent(run.name)}`))]);
      if (fresh.some(Boolean)) show();
    } catch { /* the server was stopped, or is busy: the next look may find it */ }
    if (page.isConnected) timer = setTimeout(poll, [mine, ...others].every((run) => run.status === "done") ? 5 * EVERY : EVERY);
  }
  show();
  timer = setTimeout(poll, EVERY);
  return () => clearTimeout(timer);
}

/** The settings that differ between runs, with their last loss and speed. */
function differences(runs) {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.settings)))];
  const rows = names.filter((n) => new Set(runs.map((run) => run.settings[n])).size > 1).map((n) => [n, ...runs.map((run) => run.settings[n] ?? "–")]);
  const last = (run, name) => (run.columns[name]?.length ? short(run.columns[name].at(-1)[1]) : "–");
  rows.push(["last loss", ...runs.map((run) => last(run, "loss"))], ["rows a second", ...runs.map((run) => last(run, "rows_per_second"))]);
  const mark = (i) => { const line = svg("svg", { viewBox: "0 0 30 6", class: "key" }); line.append(svg("path", { d: "M0 3H30", ...(i ? { "stroke-dasharray": DASHES[i - 1] } : {}) })); return line; };
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "what differs" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "what differs"), ...runs.map((run, i) => el("th", { scope: "col" }, mark(i), ` ${run.name}`)))),
    el("tbody", {}, ...rows.map(([name, ...cells]) => el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((c) => el("td", {}, String(c))))))));
}

const W = 340, H = 150, L = 44, B = 18;

/** lines: a name and, of each run, [[step, value], …]; others: the runs after this one. */
export function chart(title, lines, others) {
  const points = lines.flatMap((l) => l.runs.flat());
  const steps = points.map((p) => p[0]), values = points.map((p) => p[1]);
  const [s0, s1] = [Math.min(...steps), Math.max(...steps)];
  let [v0, v1] = [Math.min(...values), Math.max(...values)];
  if (v0 === v1) { v0 -= 0.5; v1 += 0.5; }
  const x = (s) => L + ((s - s0) / (s1 - s0 || 1)) * (W - L - 6), y = (v) => H - B - ((v - v0) / (v1 - v0)) * (H - B - 8);
  const end = (run) => (run.length ? short(run.at(-1)[1]) : "–");
  const drawn = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}: at last ${lines.map((l) => `${l.name || title} ${end(l.runs[0])}`).join(", ")}` });
  drawn.append(svg("path", { class: "axis", d: `M${L} 4V${H - B}H${W - 4}` }));
  for (const [v, baseline] of [[v1, 12], [v0, H - B]]) drawn.append(svg("text", { x: L - 4, y: baseline, "text-anchor": "end" }, short(v)));
  drawn.append(svg("text", { x: L, y: H - 4 }, `step ${s0}`), svg("text", { x: W - 4, y: H - 4, "text-anchor": "end" }, s1));
  const legend = el("figcaption", { class: "legend" });
  lines.forEach((line, i) => {
    const tint = PALETTE[i % PALETTE.length];
    line.runs.forEach((run, r) => {
      if (!run.length) return;
      const d = run.map(([s, v], j) => `${j ? "L" : "M"}${x(s).toFixed(1)} ${y(v).toFixed(1)}`).join("") + (run.length === 1 ? "h2" : "");
      drawn.append(svg("path", { stroke: tint, d, ...(r ? { class: "other", "stroke-dasharray": DASHES[r - 1] } : {}) }));
    });
    const mark = el("i");
    mark.style.background = tint;
    legend.append(el("span", {}, mark, lines.length > 1 ? `${line.name} ` : "", end(line.runs[0]), others.length ? el("span", { class: "faint" }, ` (${line.runs.slice(1).map(end).join("; ")})`) : ""));
  });
  return el("figure", { class: "card" }, el("h3", {}, title), drawn, legend);
}
