// Points on a plane: WebGL where a graphics card draws it, else pixels that are set here, which is faster than WebGL in software. Pan, zoom, lasso, who is under the pointer.

import { viridis } from "./colours.js";

const VERTEX = `attribute vec2 point; attribute vec4 colour; uniform vec2 shift; uniform vec2 scale; uniform float size; varying vec4 v;
void main() { gl_Position = vec4((point - shift) * scale, 0.0, 1.0); gl_PointSize = size; v = colour; }`;
const FRAGMENT = `precision mediump float; varying vec4 v;
void main() { vec2 d = gl_PointCoord - 0.5; float r = dot(d, d); if (r > 0.25) discard; gl_FragColor = vec4(v.rgb * v.a, v.a); }`;

/** Whether WebGL is there and not drawn in software. */
function accelerated() {
  const gl = document.createElement("canvas").getContext("webgl");
  if (!gl) return false;
  const info = gl.getExtension("WEBGL_debug_renderer_info"), name = gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(name);
}

const MANY = 300000; // points above which one may be a single pixel
const CELLS = 1000; // along an axis, in which points are looked for
const column = (v) => Math.floor(Math.max(0, Math.min(1, v)) * (CELLS - 1));
const SQUARE = 6; // CSS pixels, in which points are counted for their density
const OPAQUE = 200; // of 255, from which a point hides what is under it

export class Scatter {
  /** stage: the element to fill; x, y: numbers from 0 to 1; hover(index or -1, px, py), pick(index), lasso([indices]): callbacks; kind: webgl or canvas, by default what is faster. */
  constructor(stage, x, y, { hover = () => {}, pick = () => {}, lasso = () => {}, label = "map", kind = "" } = {}) {
    Object.assign(this, { stage, x, y, hover, pick, lasso, n: x.length, lassoing: false, marked: -1, names: [] });
    this.ignored = new Uint8Array(this.n); // 1: neither found, nor selected
    this.canvas = document.createElement("canvas");
    this.over = document.createElement("canvas");
    this.over.className = "over";
    Object.entries({ tabindex: 0, role: "application", "aria-label": label }).forEach(([k, v]) => this.canvas.setAttribute(k, v));
    stage.append(this.canvas, this.over);
    this.colours = new Uint8Array(4 * this.n).fill(200);
    this.home();
    this.gl = (kind || (accelerated() ? "webgl" : "canvas")) === "canvas" ? null : this.canvas.getContext("webgl", { antialias: true, premultipliedAlpha: true });
    if (this.gl) this.prepare();
    this.kind = this.gl ? "webgl" : "canvas";
    this.paint(this.colours);
    this.grid();
    this.listen();
    this.sized = new ResizeObserver(() => this.resize());
    this.sized.observe(stage);
    this.resize();
  }

  close() { this.sized.disconnect(); this.gl?.getExtension("WEBGL_lose_context")?.loseContext(); }

  home() { this.centre = [0.5, 0.5]; this.zoom = 0.94; }

  prepare() {
    const gl = this.gl, program = gl.createProgram();
    for (const [type, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.uniform = Object.fromEntries(["shift", "scale", "size"].map((name) => [name, gl.getUniformLocation(program, name)]));
    const points = new Float32Array(2 * this.n);
    for (let i = 0; i < this.n; i++) { points[2 * i] = this.x[i]; points[2 * i + 1] = this.y[i]; }
    this.buffers = [this.fill(program, "point", points, 2, gl.FLOAT), this.fill(program, "colour", this.colours, 4, gl.UNSIGNED_BYTE)];
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  fill(program, name, data, size, type) {
    const gl = this.gl, buffer = gl.createBuffer(), place = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, type, type !== gl.FLOAT, 0, 0);
    return buffer;
  }

  /** colours: (4 n) bytes, red green blue alpha; ignored: (n) bytes; names: [text, [indices]], written over the middle of theirs. */
  paint(colours, ignored = this.ignored, names = []) {
    Object.assign(this, { colours, ignored, names: names.map(([text, indices]) => [text, this.middle(indices)]) });
    this.packed = new Uint32Array(colours.buffer, colours.byteOffset, this.n);
    const places = new Uint32Array(this.n); // faint ones from the front, others from the back
    let front = 0, back = this.n;
    for (let i = 0; i < this.n; i++) places[this.packed[i] >>> 24 < OPAQUE ? front++ : --back] = i;
    Object.assign(this, { faint: places.subarray(0, front), solid: places.subarray(front).reverse() });
    if (this.gl) {
      this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.buffers[1]);
      this.gl.bufferData(this.gl.ARRAY_BUFFER, colours, this.gl.DYNAMIC_DRAW);
    }
    this.draw();
  }

  resize() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2), { clientWidth: w, clientHeight: h } = this.stage;
    for (const canvas of [this.canvas, this.over]) { canvas.width = w * ratio; canvas.height = h * ratio; }
    Object.assign(this, { ratio, w, h, side: Math.min(w, h) });
    this.draw();
  }

  /** Where a point is on the screen, in CSS pixels; and back. The map fills the stage, each axis by itself. */
  screen(i) { return [this.w / 2 + (this.x[i] - this.centre[0]) * this.w * this.zoom, this.h / 2 - (this.y[i] - this.centre[1]) * this.h * this.zoom]; }
  plane(px, py) { return [(px - this.w / 2) / (this.w * this.zoom) + this.centre[0], (this.h / 2 - py) / (this.h * this.zoom) + this.centre[1]]; }

  draw() { if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.now(); }); }

  now() {
    const size = Math.max(this.n > MANY ? 1 : 2, Math.min(12, Math.sqrt((this.w * this.h) / this.n) * 0.45 * Math.sqrt(this.zoom))) * this.ratio;
    if (this.gl) {
      const gl = this.gl;
      gl.viewport(0, 0, this.canvas.width, this.canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform2f(this.uniform.shift, ...this.centre);
      gl.uniform2f(this.uniform.scale, 2 * this.zoom, 2 * this.zoom);
      gl.uniform1f(this.uniform.size, size);
      if (!this.density) gl.drawArrays(gl.POINTS, 0, this.n);
    } else if (this.density) this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
    else this.raster(Math.max(1, Math.round(size)));
    this.drawOver();
  }

  /** Sets the pixels of points that are discs of a diameter; faint ones first. */
  raster(size) {
    const { width, height } = this.canvas, pen = this.canvas.getContext("2d");
    if (!width || !height) return;
    if (this.image?.width !== width || this.image?.height !== height) this.image = pen.createImageData(width, height);
    const pixels = new Uint32Array(this.image.data.buffer), [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number);
    pixels.fill((255 << 24) | (b << 16) | (g << 8) | r);
    const half = size / 2, low = Math.ceil(half), disc = [];
    for (let dy = 0; dy < size; dy++) for (let dx = 0; dx < size; dx++)
      if (size < 3 || (dx + 0.5 - half) ** 2 + (dy + 0.5 - half) ** 2 <= half * half) disc.push((dy - (size >> 1)) * width + dx - (size >> 1));
    const ax = width * this.zoom, bx = width / 2 - this.centre[0] * ax, ay = height * this.zoom, by = height / 2 + this.centre[1] * ay;
    const { x, y, packed } = this, offsets = Int32Array.from(disc), count = offsets.length, right = width - low, bottom = height - low;
    for (const i of this.faint) {
      const px = (x[i] * ax + bx) | 0, py = (by - y[i] * ay) | 0, colour = packed[i], alpha = colour >>> 24;
      if (px < low || py < low || px >= right || py >= bottom) continue;
      for (let k = 0; k < count; k++) {
        const place = py * width + px + offsets[k], below = pixels[place], mixed = (shift) => { const under = (below >> shift) & 255; return (under + ((((colour >> shift) & 255) - under) * alpha) / 255) << shift; };
        pixels[place] = 0xff000000 | mixed(0) | mixed(8) | mixed(16);
      }
    }
    for (let j = 0; j < this.solid.length; j++) {
      const i = this.solid[j], px = (x[i] * ax + bx) | 0, py = (by - y[i] * ay) | 0;
      if (px < low || py < low || px >= right || py >= bottom) continue;
      const middle = py * width + px, colour = packed[i] | 0xff000000;
      if (count === 1) pixels[middle] = colour; else for (let k = 0; k < count; k++) pixels[middle + offsets[k]] = colour;
    }
    pen.putImageData(this.image, 0, 0);
  }

  drawOver() {
    const pen = this.over.getContext("2d"), ink = getComputedStyle(this.stage).color;
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.clearRect(0, 0, this.w, this.h);
    if (this.density) this.drawDensity(pen);
    this.drawNames(pen, ink);
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    if (this.marked >= 0) for (const [tint, width] of [[getComputedStyle(document.body).backgroundColor, 6], [ink, 2.5]]) {
      Object.assign(pen, { strokeStyle: tint, lineWidth: width });
      pen.beginPath();
      pen.arc(...this.screen(this.marked), 9, 0, 7);
      pen.stroke();
    }
    if (this.path?.length > 1) { pen.beginPath(); this.path.forEach((p) => pen.lineTo(...p)); pen.setLineDash([5, 4]); pen.stroke(); pen.setLineDash([]); }
  }

  /** How many points lie in each square of a few pixels, from few (violet) to most (yellow) on a scale of logarithms. */
  drawDensity(pen) {
    const columns = Math.ceil(this.w / SQUARE), rows = Math.ceil(this.h / SQUARE), counts = new Uint32Array(columns * rows);
    const ax = (this.w * this.zoom) / SQUARE, bx = this.w / 2 / SQUARE - this.centre[0] * ax, ay = (this.h * this.zoom) / SQUARE, by = this.h / 2 / SQUARE + this.centre[1] * ay;
    let most = 0;
    for (let i = 0; i < this.n; i++) {
      const a = Math.floor(this.x[i] * ax + bx), b = Math.floor(by - this.y[i] * ay);
      if (this.ignored[i] || a < 0 || b < 0 || a >= columns || b >= rows) continue;
      const count = ++counts[b * columns + a];
      if (count > most) most = count;
    }
    for (let k = 0; k < counts.length; k++) if (counts[k]) {
      const [r, g, b] = viridis(most > 1 ? Math.log(counts[k]) / Math.log(most) : 1);
      pen.fillStyle = `rgb(${r | 0} ${g | 0} ${b | 0})`;
      pen.fillRect((k % columns) * SQUARE, Math.floor(k / columns) * SQUARE, SQUARE, SQUARE);
    }
  }

  /** The median of some points. */
  middle(indices) {
    const step = Math.max(1, Math.floor(indices.length / 2000)), some = indices.filter((_, k) => k % step === 0); // near enough, of many
    return [this.x, this.y].map((axis) => { const sorted = Float32Array.from(some, (i) => axis[i]).sort(); return sorted[sorted.length >> 1]; });
  }

  /** Names that do not cover each other, those of the most points first. */
  drawNames(pen, ink) {
    const paper = getComputedStyle(document.body).backgroundColor, taken = [];
    Object.assign(pen, { font: "600 13px system-ui, sans-serif", textAlign: "center", textBaseline: "middle", lineJoin: "round", lineWidth: 4, strokeStyle: paper, fillStyle: ink });
    for (const [text, [x, y]] of this.names) {
      const half = pen.measureText(text).width / 2 + 4, px = Math.max(half, Math.min(this.w - half, this.w / 2 + (x - this.centre[0]) * this.w * this.zoom)), py = this.h / 2 - (y - this.centre[1]) * this.h * this.zoom;
      if (py < 8 || py > this.h - 8 || taken.some(([a, b, c]) => Math.abs(a - px) < c + half && Math.abs(b - py) < 18)) continue;
      taken.push([px, py, half]);
      pen.strokeText(text, px, py);
      pen.fillText(text, px, py);
    }
  }

  mark(i) { this.marked = i; this.draw(); }

  /** Moves the map so that a point can be seen. */
  show(i) {
    const [px, py] = this.screen(i);
    if (px < 20 || py < 20 || px > this.w - 20 || py > this.h - 20) this.centre = [this.x[i], this.y[i]];
    this.draw();
  }

  /** Which points lie in each of 1,000 x 1,000 cells: those of cell c are order[first[c]] to order[first[c + 1] - 1]. */
  grid() {
    const cell = new Uint32Array(this.n), first = new Uint32Array(CELLS * CELLS + 1), order = new Uint32Array(this.n);
    for (let i = 0; i < this.n; i++) { cell[i] = column(this.x[i]) * CELLS + column(this.y[i]); first[cell[i] + 1]++; }
    for (let c = 0; c < CELLS * CELLS; c++) first[c + 1] += first[c];
    const next = first.slice();
    for (let i = 0; i < this.n; i++) order[next[cell[i]]++] = i;
    this.cells = { first, order };
  }

  /** The point nearest to a place on the screen, -1 if none is within 14 pixels. */
  under(px, py) {
    const [a0, b1] = this.plane(px - 14, py - 14).map(column), [a1, b0] = this.plane(px + 14, py + 14).map(column), { first, order } = this.cells;
    let best = -1, least = 14 * 14;
    for (let a = a0; a <= a1; a++) for (let k = first[a * CELLS + b0]; k < first[a * CELLS + b1 + 1]; k++) {
      const i = order[k], dx = this.w / 2 + (this.x[i] - this.centre[0]) * this.w * this.zoom - px, dy = this.h / 2 - (this.y[i] - this.centre[1]) * this.h * this.zoom - py, d = dx * dx + dy * dy;
      if (d < least && !this.ignored[i]) { least = d; best = i; }
    }
    return best;
  }

  inside(path) {
    const indices = [], low = [0, 1].map((k) => Math.min(...path.map((p) => p[k]))), high = [0, 1].map((k) => Math.max(...path.map((p) => p[k])));
    for (let i = 0; i < this.n; i++) {
      if (this.ignored[i]) continue;
      const x = this.w / 2 + (this.x[i] - this.centre[0]) * this.w * this.zoom, y = this.h / 2 - (this.y[i] - this.centre[1]) * this.h * this.zoom;
      if (x < low[0] || y < low[1] || x > high[0] || y > high[1]) continue;
      let odd = false;
      for (let a = 0, b = path.length - 1; a < path.length; b = a++) {
        const [xa, ya] = path[a], [xb, yb] = path[b];
        if (ya > y !== yb > y && x < ((xb - xa) * (y - ya)) / (yb - ya) + xa) odd = !odd;
      }
      if (odd) indices.push(i);
    }
    return indices;
  }

  inView() { return this.inside([[0, 0], [this.w, 0], [this.w, this.h], [0, this.h]]); }

  scale(factor, px = this.w / 2, py = this.h / 2) {
    const before = this.plane(px, py);
    this.zoom = Math.max(0.5, Math.min(400, this.zoom * factor));
    const after = this.plane(px, py);
    this.centre = this.centre.map((c, i) => c + before[i] - after[i]);
    this.draw();
  }

  listen() {
    const c = this.canvas, here = (event) => { const box = c.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    const fingers = new Map();
    let moved = 0;
    c.addEventListener("pointerdown", (event) => {
      c.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, here(event));
      moved = 0;
      this.path = this.lassoing || event.shiftKey ? [here(event)] : null;
    });
    c.addEventListener("pointermove", (event) => {
      const position = here(event), before = fingers.get(event.pointerId);
      if (!before) { this.hover(this.under(...position), ...position); return; }
      moved += Math.abs(position[0] - before[0]) + Math.abs(position[1] - before[1]);
      const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const away = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
        this.scale(away(position) / Math.max(away(before), 1), ...other);
      } else if (this.path) { this.path.push(position); this.draw(); }
      else {
        this.centre[0] -= (position[0] - before[0]) / (this.w * this.zoom);
        this.centre[1] += (position[1] - before[1]) / (this.h * this.zoom);
        this.draw();
      }
      fingers.set(event.pointerId, position);
    });
    const up = (event) => {
      if (!fingers.delete(event.pointerId)) return;
      const path = this.path;
      this.path = null;
      if (path?.length > 2) this.lasso(this.inside(path));
      else if (moved < 5) { const i = this.under(...here(event)); if (i >= 0) this.pick(i); }
      this.draw();
    };
    c.addEventListener("pointerup", up);
    c.addEventListener("pointercancel", up);
    c.addEventListener("pointerleave", () => this.hover(-1));
    c.addEventListener("wheel", (event) => { event.preventDefault(); this.scale(Math.exp(-event.deltaY * 0.0015), ...here(event)); }, { passive: false });
    c.addEventListener("keydown", (event) => {
      const step = 0.1 / this.zoom, move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[event.key];
      if (move) this.centre = this.centre.map((v, i) => v + move[i]);
      else if (event.key === "+" || event.key === "=") this.scale(1.3);
      else if (event.key === "-") this.scale(1 / 1.3);
      else if (event.key === "0") this.home();
      else if (event.key === "Enter") { const i = this.nearestToCentre(); if (i >= 0) this.pick(i); }
      else return;
      event.preventDefault();
      this.draw();
    });
  }

  nearestToCentre() {
    let best = -1, least = Infinity;
    for (let i = 0; i < this.n; i++) {
      const d = (this.x[i] - this.centre[0]) ** 2 + (this.y[i] - this.centre[1]) ** 2;
      if (d < least && !this.ignored[i]) { least = d; best = i; }
    }
    return best;
  }
}
