// Yardsticks: what was measured of the run beside what costs no training.

import { ask, count, el, PALETTE, svg } from "./view.js";

const TINTS = { trained: PALETTE[0], joined: PALETTE[4], simple: PALETTE[1], frozen: PALETTE[3], untrained: PALETTE[2], chance: "#8a8f98" };
const MEANING = { trained: "this run", joined: "this run with simple features beside it", simple: "simple features", frozen: "its pretrained models, frozen", untrained: "the encoder before training", chance: "chance" };
const W = 170, H = 22;

export async function draw(page) {
  const it = await ask("/view/yardsticks"), command = el("pre", { tabindex: 0, "aria-label": "the command" }, el("code", {}, it.command));
  if (!it.file) {
    page.append(el("p", {}, "Nothing has been measured yet. This measures the run beside simple features, an untrained encoder and chance:"), command);
    return;
  }
  const parts = Object.entries(it.counts).map(([part, n]) => `${count(n)} ${part}`).join(", ");
  const simple = Object.entries(it.simple).map(([field, name]) => `${field} ${name}`).join(", ");
  page.append(
    it.summary ? el("p", { id: "sentence" }, `${it.summary[0].toUpperCase()}${it.summary.slice(1)}`) : "",
    el("p", { class: "faint" }, [it.file, it.data, parts, simple && `simple features: ${simple}`].filter(Boolean).join(" · ")),
    it.warning ? el("p", { class: "warning" }, it.warning) : "",
    it.old ? el("p", { class: "warning" }, "The run has been trained further since this was measured. Measure it anew: ", el("code", {}, it.command)) : "",
    el("div", { class: "legend" }, ...it.columns.map((name) => { const mark = el("i"); mark.style.background = TINTS[name]; return el("span", {}, mark, `${name}: ${MEANING[name]}`); }), el("span", { class: "faint" }, "lines: 95 % intervals")),
    ...it.groups.map((group) => section(group, it.columns)),
    it.others ? el("p", { class: "faint" }, `${count(it.others)} rows of other metrics are in ${it.file}.`) : "");
  const left = Object.entries(it.skipped);
  if (left.length) page.append(el("details", {}, el("summary", {}, `Not measured here (${left.length})`), el("dl", {}, ...left.flatMap(([name, reason]) => [el("dt", {}, name), el("dd", {}, reason)]))));
}

function section({ title, rows }, columns) {
  const heading = (text) => el("th", { scope: "col" }, text);
  return el("section", {}, el("h2", { class: "next" }, title), el("div", { class: "whole", tabindex: 0, role: "region", "aria-label": title }, el("table", { class: "yardsticks" },
    el("thead", {}, el("tr", {}, heading(""), heading("metric"), ...columns.map(heading), heading(""))),
    el("tbody", {}, ...rows.map((row) => line(row, rows, columns))))));
}

function line(row, rows, columns) {
  const better = (a, b) => (row.lower ? a < b : a > b);
  const best = row.values.reduce((top, v) => (v == null || (top != null && !better(v, top)) ? top : v), null);
  const cells = row.values.map((v, i) => el("td", { class: v === best ? "none best" : "none", title: row.intervals[i] ? `95 %: ${row.intervals[i].map((x) => x.toFixed(3)).join(" to ")}` : false }, v == null ? "–" : v.toFixed(3)));
  return el("tr", {}, el("th", { scope: "row" }, row.what || "all"), el("td", { title: row.n ? `${row.n} records` : false }, `${row.metric}${row.lower ? " (less is better)" : ""}`), ...cells, el("td", {}, dots(row, rows.filter((other) => other.metric === row.metric), columns)));
}

/** The values on a line of their metric's scale. */
function dots(row, alike, columns) {
  const all = alike.flatMap((other) => [...other.values, ...other.intervals.flat()]).filter((v) => v != null);
  const low = Math.min(...all), span = Math.max(...all) - low || 1, x = (v) => (6 + ((v - low) / span) * (W - 12)).toFixed(1);
  const drawn = svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "dots", role: "img", "aria-label": columns.map((name, i) => row.values[i] != null && `${name} ${row.values[i].toFixed(3)}`).filter(Boolean).join(", ") });
  drawn.append(svg("path", { class: "axis", d: `M4 ${H / 2}H${W - 4}` }));
  for (let i = columns.length - 1; i >= 0; i--) { // what was trained is on top
    if (row.values[i] == null) continue;
    const tint = TINTS[columns[i]], span95 = row.intervals[i];
    if (span95 && i === 0) drawn.append(svg("path", { d: `M${x(span95[0])} ${H / 2}H${x(span95[1])}`, stroke: tint }));
    drawn.append(svg("circle", { cx: x(row.values[i]), cy: H / 2, r: i ? 4 : 5, fill: tint }));
  }
  return drawn;
}
