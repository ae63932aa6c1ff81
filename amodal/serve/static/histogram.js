// A histogram on which a range is chosen by dragging.

import { svg } from "./view.js";

const WIDTH = 240, HEIGHT = 56;

/** about: {low, high, bins} of all records; choose(least, most): called with the chosen range, undefined for none. Its element, how to show the counts of some records, and how to mark a range. */
export function brushed(about, choose, name) {
  const { low, high, bins } = about, most = Math.max(1, ...bins), width = WIDTH / bins.length;
  const drawn = svg("svg", { class: "histogram", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `histogram of ${name}: drag to choose a range, click to choose all` });
  // the square root: bars of few records can be seen beside those of many
  const tall = (n) => HEIGHT * Math.sqrt(n / most), bar = (n, i, kind) => svg("rect", { class: kind, x: i * width, width: Math.max(1, width - 1), y: HEIGHT - tall(n), height: tall(n) });
  const band = svg("rect", { class: "band", y: 0, height: HEIGHT, width: 0 }), some = bins.map((n, i) => bar(n, i, "some"));
  drawn.append(band, ...bins.map((n, i) => bar(n, i, "every")), ...some);
  const under = (event) => { const box = drawn.getBoundingClientRect(); return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)); };
  let from = null;
  drawn.addEventListener("pointerdown", (event) => { from = under(event); drawn.setPointerCapture(event.pointerId); });
  drawn.addEventListener("pointermove", (event) => { if (from !== null) place(Math.min(from, under(event)), Math.max(from, under(event))); });
  drawn.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const to = under(event), value = (share) => Number((low + share * (high - low)).toPrecision(4)), [a, b] = [Math.min(from, to), Math.max(from, to)];
    from = null;
    if ((b - a) * bins.length < 0.5) choose(); // a click
    else choose(a < 0.01 ? undefined : value(a), b > 0.99 ? undefined : value(b)); // near an end it is the end
  });
  drawn.addEventListener("pointercancel", () => { from = null; });

  function place(a, b) { band.setAttribute("x", a * WIDTH); band.setAttribute("width", Math.max(0, b - a) * WIDTH); }
  const share = (value) => (high > low ? Math.max(0, Math.min(1, (value - low) / (high - low))) : 0);
  return {
    drawn,
    show: (counts) => counts.forEach((n, i) => { some[i].setAttribute("y", HEIGHT - tall(n)); some[i].setAttribute("height", tall(n)); some[i].dataset.count = n; }),
    mark: (least, most) => (least == null && most == null ? place(0, 0) : place(least == null ? 0 : share(least), most == null ? 1 : share(most))),
  };
}
