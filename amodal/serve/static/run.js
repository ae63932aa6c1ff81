import { about, ask, attempt, el, short, svg } from "./view.js";
import { chart, DASHES, Shared } from "./chart.js";

const GROUPS = [["loss", "Loss"], ["loss/", "Terms of the loss"], ["rank/", "Effective rank"], ["std/", "Deviation of each dimension"], ["uniformity/", "Uniformity"],
  ["alignment/", "Alignment"], ["conflict/", "Gradient conflict"], ["gradient_norm", "Gradient norm"], ["lr", "Learning rate"], ["rows_per_second", "Rows a second"], ["data_wait", "Share of time waiting for data"]];
const EVERY = 2000;

export async function draw(page) {
  const charts = el("div", { class: "charts" }), status = el("p", { "aria-live": "polite" }), differ = el("div");
  const [mine, names] = await Promise.all([ask("/view/run"), ask("/view/runs")]);
  const shared = new Shared();
  let others = [], timer = 0;
  const amount = el("output", {}, "0");
  const smoothing = el("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: 0, "aria-label": "smoothing", oninput: () => { shared.smoothing = Number(smoothing.value); amount.textContent = smoothing.value; show(); } });
  const log = el("input", { type: "checkbox", onchange: () => { shared.log = log.checked; show(); } });
  const boxes = names.map((name) => {
    const box = el("input", { type: "checkbox", onchange: () => attempt(async () => {
      if (box.checked && others.length === DASHES.length) { box.checked = false; throw new Error(`up to ${DASHES.length} other runs are laid over this one`); }
      others = box.checked ? [...others, await ask(`/view/runs/${encodeURIComponent(name)}`)] : others.filter((run) => run.name !== name);
      show();
    }) });
    return el("label", {}, box, name);
  });
  page.append(status, el("div", { class: "bar" }, el("label", {}, "Smoothing", smoothing, amount), el("label", {}, log, "Log scale"), el("span", { class: "faint" }, "Point at a chart, or focus one and press arrows, for values of all at that step.")), names.length ? el("details", { class: "compare" }, el("summary", {}, `Compare with other runs in the same folder (${names.length})`), el("div", { class: "bar" }, ...boxes)) : el("p", { class: "faint" }, "Runs in the same folder could be compared here; there is no other."), differ, charts);

  function show() {
    const over = mine.steps && mine.last >= mine.steps, done = mine.status === "done" || over;
    status.textContent = `${mine.method} · step ${mine.last.toLocaleString("en")}${mine.steps ? ` of ${mine.steps.toLocaleString("en")}` : ""} · ${mine.status}${!about.records && done ? ". Start amodal view again to see its records." : ""}`;
    status.dataset.step = mine.last;
    const all = [...new Set([mine, ...others].flatMap((run) => Object.keys(run.columns)))];
    const taken = new Set(["seconds"]), made = [], focused = document.activeElement?.dataset?.title;
    shared.charts = [];
    const groups = [...GROUPS, ...[...new Set(all.map((n) => n.split("/")[0]))].map((n) => [all.includes(n) ? n : `${n}/`, n])];
    for (const [start, title] of groups) {
      const inside = all.filter((n) => !taken.has(n) && (start.endsWith("/") ? n.startsWith(start) : n === start));
      inside.forEach((n) => taken.add(n));
      if (inside.length) made.push(chart(title, inside.map((n) => ({ name: n.replace(/^.*?\//, ""), runs: [mine, ...others].map((run) => run.columns[n] || []) })), others, shared));
    }
    const step = shared.step; // taking the old charts away would lose it
    charts.replaceChildren(...made);
    if (focused) [...charts.querySelectorAll("svg[data-title]")].find((one) => one.dataset.title === focused)?.focus();
    shared.move(step);
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
