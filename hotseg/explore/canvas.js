// The browser's half of hotseg.explore.canvas: draws linked panels from bytes, and answers every local control by itself.
// Pixels are sampled at the size of the screen, so the cost of a redraw is that of the pixels seen, not of the image.

const PATIENCE = 4000;   // ms without an answer until the views are marked
const HINT = "Click a picture: then the wheel zooms, arrows move the cross hair; drag to pan. Alt-click a class to see it alone.";
const PULSE = 2000;  // ms between looks whether there is a kernel
const NOTHING = 255;     // a heat level or label id that is not drawn
const WRONG = [220, 40, 40], PALE = "rgb(90,90,90)";
const LOCAL = ["opacity", "hidden", "safe", "threshold", "arrows", "view"];

const clamp = (v, low, high) => Math.min(Math.max(v, low), high);
const abgr = ([r, g, b], a = 255) => ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;
const css = ([r, g, b]) => `rgb(${r},${g},${b})`;
const bytesOf = (view) => view ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array(0);

/** An element with attributes, listeners being functions, and children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** A number in at most four figures, without noise. */
function figures(v) {
  if (!Number.isFinite(v)) return "none";
  return Math.abs(v) >= 1e4 || (v !== 0 && Math.abs(v) < 1e-3) ? v.toExponential(1) : String(Number(v.toPrecision(3)));
}

// ---- layers: what a panel holds besides its photograph ----

/** A layer as sent by Python, its bytes as numbers. */
function layerFrom(sent) {
  if (!sent || !sent.rows) return null;
  const bytes = bytesOf(sent.values);
  const layer = { ...sent, values: sent.kind === "marks" ? bits(bytes, sent.height * sent.width) : bytes };
  if (sent.kind === "labels") {
    layer.has = new Uint8Array(256);
    for (let i = 0; i < bytes.length; i++) layer.has[bytes[i]] = 1;
  }
  if (sent.kind === "flow") {
    layer.values = new Int16Array(bytes.slice().buffer);
    layer.colours = wheel(layer);
  }
  return layer;
}

/** Marks, sent as bits, as one byte each. */
function bits(bytes, count) {
  const out = new Uint8Array(count);
  for (let i = 0; i < count; i++) out[i] = (bytes[i >> 3] >> (7 - (i & 7))) & 1;
  return out;
}

/** Flow as colours: hue is direction, saturation is length, white is no motion. */
function wheel({ values, height, width, step, longest }) {
  const n = height * width, out = new Uint32Array(n), full = step / longest;
  hues ??= Uint32Array.from({ length: 1 << 16 }, (_, i) => hue(((i & 255) - 128) / 127, ((i >> 8) - 128) / 127));
  for (let i = 0; i < n; i++) {
    let dx = values[i] * full, dy = values[n + i] * full;
    const most = Math.max(Math.abs(dx), Math.abs(dy));
    if (most > 1) { dx /= most; dy /= most; }
    out[i] = hues[(Math.round(dy * 127 + 128) << 8) | Math.round(dx * 127 + 128)];
  }
  return out;
}

let hues;  // colours of motions in the unit square, made when first needed

function hue(dx, dy) {
  const s = Math.min(1, Math.hypot(dx, dy));
  let h = Math.atan2(dy, dx) / (Math.PI / 3);
  if (h < 0) h += 6;
  const low = 255 * (1 - s), part = h - Math.floor(h), down = 255 * (1 - s * part), up = 255 * (1 - s * (1 - part));
  switch (Math.floor(h) % 6) {
    case 0: return abgr([255, up, low]);
    case 1: return abgr([down, 255, low]);
    case 2: return abgr([low, 255, up]);
    case 3: return abgr([low, down, 255]);
    case 4: return abgr([up, low, 255]);
    default: return abgr([255, low, down]);
  }
}

/** Colours of a layer's 256 values; 0 is transparent. */
function table(layer, look, space) {
  const lut = new Uint32Array(256);
  if (layer.kind === "labels") {
    if (layer.photo < 0) lut.fill(abgr(space.void));
    (look.safe ? space.safe : space.palette).forEach((colour, i) => { lut[i] = abgr(colour); });
    for (const i of look.hidden) lut[i] = layer.photo < 0 ? abgr(space.void) : 0;
  } else if (layer.kind === "heat") {
    space.heat.forEach((colour, i) => { if (i >= look.threshold * 254) lut[i] = abgr(colour); });
    if (layer.photo < 0) for (let i = 0; i < 256; i++) lut[i] ||= abgr(space.void);
  } else if (layer.kind === "marks") {
    lut.fill(abgr(WRONG), 1);
    if (layer.photo < 0) lut[0] = abgr(space.void);
  }
  return lut;
}

/** The part of a layer in sight, sampled at the size of `target` (an ImageData): the nearest value for each screen pixel. */
function sample(layer, lut, [top, left, rows, columns], target) {
  const { width, height, data } = target, out = new Uint32Array(data.buffer);
  const source = lut ? layer.values : layer.colours, w = layer.width;
  const down = layer.height / layer.rows, across = w / layer.columns;
  const column = new Int32Array(width);
  for (let x = 0; x < width; x++) column[x] = clamp(Math.floor((left + (x + .5) * columns / width) * across), 0, w - 1);
  let last = -1;
  for (let y = 0, k = 0; y < height; y++, k += width) {
    const row = clamp(Math.floor((top + (y + .5) * rows / height) * down), 0, layer.height - 1) * w;
    if (row === last) out.copyWithin(k, k - width, k);
    else if (lut) for (let x = 0; x < width; x++) out[k + x] = lut[source[row + column[x]]];
    else for (let x = 0; x < width; x++) out[k + x] = source[row + column[x]];
    last = row;
  }
}

/** What a layer says at a pixel of the image. */
function valueAt(layer, row, column, space) {
  const r = Math.floor(row * layer.height / layer.rows), c = Math.floor(column * layer.width / layer.columns);
  const i = r * layer.width + c, v = layer.values[i];
  switch (layer.kind) {
    case "labels": return space.classes[v] ?? "void";
    case "marks": return v ? "yes" : "no";
    case "heat": return v === NOTHING ? "none" : `${figures(layer.low + v / 254 * (layer.high - layer.low))} ${layer.unit}`.trim();
    case "flow": {
      const [dx, dy] = [v, layer.values[layer.height * layer.width + i]].map((q) => (q * layer.step).toFixed(1));
      return `${dx}, ${dy} px`;
    }
    default: return "";
  }
}

// ---- photographs ----

async function decode(view) {
  if (!view || !view.byteLength) return null;
  return { levels: [await createImageBitmap(new Blob([bytesOf(view)], { type: "image/jpeg" }))] };
}

/** The smallest halving of a photograph that is at least `wanted` columns wide, made when first needed. */
function levelOf(photo, wanted) {
  const { levels } = photo;
  while (levels.at(-1).width >= 2 * wanted && levels.at(-1).width > 1) levels.push(half(levels.at(-1)));
  return levels.findLast((b) => b.width >= wanted) ?? levels[0];
}

function half(picture) {
  const canvas = make("canvas", { width: Math.ceil(picture.width / 2), height: Math.ceil(picture.height / 2) });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "low";  // bilinear at one half is the mean of four pixels
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas;
}

const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
probe.canvas.width = probe.canvas.height = 1;

function colourAt(photo, row, column) {
  probe.drawImage(photo.levels[0], column, row, 1, 1, 0, 0, 1, 1);
  return Array.from(probe.getImageData(0, 0, 1, 1).data.slice(0, 3)).join(" ");
}

// ---- one panel ----

class Panel {
  constructor(view, i) {
    this.view = view;
    this.index = i;
    this.title = make("span", { class: "hotseg-title" });
    this.scale = make("span", { class: "hotseg-scale" });
    this.canvas = make("canvas", {
      class: "hotseg-panel", "data-panel": i, tabindex: 0, role: "application", "aria-roledescription": "linked picture",
      keydown: (e) => view.key(e, this), focus: () => view.focus(this),
      pointerdown: (e) => view.press(e, this), pointermove: (e) => view.move(e, this), pointerup: (e) => view.lift(e, this),
      pointercancel: () => view.drop(), pointerleave: () => view.leave(), });
    this.canvas.addEventListener("wheel", (e) => view.wheel(e, this), { passive: false });
    this.pen = this.canvas.getContext("2d");
    this.across = make("div", { class: "hotseg-cross hotseg-across" });
    this.down = make("div", { class: "hotseg-cross hotseg-down" });
    this.stage = make("div", { class: "hotseg-stage" }, this.canvas, this.across, this.down);
    this.cell = make("figure", { class: "hotseg-cell" }, make("figcaption", {}, this.title, this.scale), this.stage);
    this.over = { canvas: document.createElement("canvas"), key: "" };
    this.layer = null;
    this.version = 0;
  }

  /** Take a new layer: caption, scale and proportions. */
  take(sent) {
    if (sent === this.sent) return;
    this.sent = sent;
    this.layer = layerFrom(sent);
    this.version++;
    this.cell.hidden = !this.layer;
    if (!this.layer) return;
    const { title, rows, columns, kind } = this.layer;
    this.title.textContent = this.title.title = title;
    this.canvas.setAttribute("aria-label", `${title}, ${kind === "none" ? "photograph" : kind}, ${rows} by ${columns} pixels`);
    this.stage.style.aspectRatio = `${columns} / ${rows}`;
    this.scale.replaceChildren(...this.scaleParts());
  }

  scaleParts() {
    const { kind, low, high, unit, longest } = this.layer, ramp = this.view.space.heat;
    if (kind === "flow") {
      const ring = [0, 1, 2, 3, 4, 5, 6].map((k) => `hsl(${k * 60} 100% 50%)`).join(",");
      return [make("i", { class: "hotseg-wheel",
        style: `background: radial-gradient(#fff, transparent 70%), conic-gradient(from 90deg, ${ring})` }), `to ${figures(longest)} px`];
    }
    if (kind !== "heat") return [];
    const stops = [0, .25, .5, .75, 1].map((q) => css(ramp[Math.round(q * 254)])).join(",");
    return [figures(low), make("i", { style: `background: linear-gradient(90deg, ${stops})` }), `${figures(high)} ${unit}`.trim()];
  }

  /** Fit the pixels of the canvas to those of the screen; true when they changed. */
  fit() {
    const ratio = window.devicePixelRatio || 1, box = this.stage.getBoundingClientRect();
    const w = Math.max(1, Math.round(box.width * ratio)), h = Math.max(1, Math.round(box.height * ratio));
    if (!box.width || (this.canvas.width === w && this.canvas.height === h)) return false;
    this.canvas.width = w; this.canvas.height = h;
    return true;
  }

  paint(look) {
    const { layer, pen, canvas } = this;
    if (!layer) return;
    const { width, height } = canvas, photo = layer.photo < 0 ? null : this.view.photos[layer.photo];
    const place = `${width}x${height} ${look.window}`;
    pen.globalAlpha = 1;
    if (photo) pen.drawImage(this.view.photograph(photo, width, height, look.window), 0, 0);
    else { pen.fillStyle = css(this.view.space.void); pen.fillRect(0, 0, width, height); }
    if (layer.kind === "none") return;
    const marks = layer.kind === "marks" && photo;
    if (marks) { pen.globalAlpha = look.opacity; pen.fillStyle = PALE; pen.fillRect(0, 0, width, height); }
    pen.globalAlpha = !photo ? 1 : marks ? Math.min(1, 2 * look.opacity) : look.opacity;
    pen.drawImage(this.coloured(place, look), 0, 0);
  }

  /** The layer in sight in its colours, kept until something other than the opacity changes. */
  coloured(place, look) {
    const { over, canvas, layer } = this, kind = layer.kind;
    const style = kind === "labels" ? `${look.safe} ${look.hidden}` : kind === "heat" ? look.threshold : kind === "flow" ? look.arrows : "";
    const key = `${this.version} ${place} ${style}`;
    if (over.key === key) return over.canvas;
    over.key = key;
    if (over.canvas.width !== canvas.width) over.canvas.width = canvas.width;
    if (over.canvas.height !== canvas.height) over.canvas.height = canvas.height;
    const pen = over.canvas.getContext("2d");
    if (kind === "flow" && look.arrows) { pen.clearRect(0, 0, canvas.width, canvas.height); this.drawArrows(pen, look.window); return over.canvas; }
    if (!over.data || over.data.width !== canvas.width || over.data.height !== canvas.height)
      over.data = pen.createImageData(canvas.width, canvas.height);
    sample(layer, kind === "flow" ? null : table(layer, look, this.view.space), look.window, over.data);
    pen.putImageData(over.data, 0, 0);
    return over.canvas;
  }

  drawArrows(pen, [top, left, rows, columns]) {
    const { layer, canvas } = this, { values, step, longest } = layer, n = layer.height * layer.width;
    const grid = 22 * (window.devicePixelRatio || 1), gain = .85 * grid / longest * step;
    pen.lineCap = "round";
    for (const [colour, wide] of [["rgba(0,0,0,.75)", 3.2], ["#fff", 1.3]]) {
      pen.strokeStyle = colour; pen.lineWidth = wide * (window.devicePixelRatio || 1);
      pen.beginPath();
      for (let y = grid / 2; y < canvas.height; y += grid) {
        const r = Math.floor(clamp((top + y * rows / canvas.height) / layer.rows, 0, .999999) * layer.height) * layer.width;
        for (let x = grid / 2; x < canvas.width; x += grid) {
          const i = r + Math.floor(clamp((left + x * columns / canvas.width) / layer.columns, 0, .999999) * layer.width);
          arrow(pen, x, y, values[i] * gain, values[n + i] * gain);
        }
      }
      pen.stroke();
    }
  }

  /** Put the cross hair on a pixel, in the middle of it. */
  cross(cursor, [top, left, rows, columns]) {
    const box = this.stage, shown = cursor && this.layer;
    const y = shown ? (cursor[0] + .5 - top) / rows : -1, x = shown ? (cursor[1] + .5 - left) / columns : -1;
    this.across.style.visibility = y >= 0 && y <= 1 ? "visible" : "hidden";
    this.down.style.visibility = x >= 0 && x <= 1 ? "visible" : "hidden";
    this.across.style.transform = `translateY(${y * box.clientHeight - .5}px)`;
    this.down.style.transform = `translateX(${x * box.clientWidth - .5}px)`;
  }

  says(row, column) {
    const { layer } = this, photo = layer.photo < 0 ? null : this.view.photos[layer.photo];
    if (layer.kind === "none") return photo ? colourAt(photo, row, column) : "";
    return valueAt(layer, row, column, this.view.space);
  }
}

function arrow(pen, x, y, dx, dy) {
  const length = Math.hypot(dx, dy), tip = Math.min(4, length * .4) / (length || 1);
  const [ex, ey] = [x + dx, y + dy];
  pen.moveTo(x, y);
  pen.lineTo(ex, ey);
  if (length < 2) return;
  pen.moveTo(ex - (dx + .6 * dy) * tip, ey - (dy - .6 * dx) * tip);
  pen.lineTo(ex, ey);
  pen.lineTo(ex - (dx - .6 * dy) * tip, ey - (dy + .6 * dx) * tip);
}

// ---- the view ----

class View {
  constructor(model, el) {
    Object.assign(this, { model, el, space: model.get("setup"), photos: [], sources: [], bases: [], cursor: null, frame: 0, asked: 0,
      silent: false, gone: false, fault: "", drag: null, timers: new Set(), undo: [] });
    this.panels = [];
    for (let i = 0; model.get(`layer${i}`) !== undefined; i++) this.panels.push(new Panel(this, i));
    this.build();
    this.listen();
    this.controls();
    this.mark();
    this.load();
  }

  // building

  build() {
    const { space, panels, model } = this, set = (name) => (e) => this.set(name, Number(e.target.value));
    const range = (name, extra) => make("input", { type: "range", min: 0, max: 1, step: .01, class: `hotseg-${name}`, input: set(name), ...extra });
    this.grid = make("div", { class: "hotseg-grid" }, ...panels.map((p) => p.cell));
    this.opacity = range("opacity", { "aria-label": "opacity of the layers", title: "Opacity of the layers  [ ]" });
    this.threshold = range("threshold", { "aria-label": "heat is drawn from this share of its range", title: "Heat is drawn from here upward" });
    this.safe = make("input", { type: "checkbox", class: "hotseg-safe", change: (e) => this.set("safe", e.target.checked) });
    this.arrows = make("input", { type: "checkbox", class: "hotseg-arrows", change: (e) => this.set("arrows", e.target.checked) });
    this.shares = [make("output"), make("output"), make("output")];
    this.forHeat = make("label", {}, "Heat from", this.threshold, this.shares[1]);
    this.forFlow = make("label", { title: "Flow as arrows instead of colours" }, this.arrows, "Arrows");
    this.forSafe = make("label", { title: "Class colours for any kind of colour vision  c" }, this.safe, "Colour-blind safe");
    const button = (text, title, click) => make("button", { type: "button", title, "aria-label": title, click }, text);
    const zoom = make("span", { class: "hotseg-zoom" }, button("−", "Zoom out  -", () => this.zoom(.5)), this.shares[2],
      button("+", "Zoom in  +", () => this.zoom(2)), button("Whole", "The whole picture  0", () => this.set("view", [0, 0, 1])));
    this.bar = make("div", { class: "hotseg-bar" }, make("label", {}, "Opacity", this.opacity, this.shares[0]), this.forHeat, this.forFlow, this.forSafe, zoom);
    this.chips = space.classes.map((name, i) => make("button", { type: "button", class: "hotseg-class", "data-class": i,
      title: `${name}: click hides or shows, with Alt only this one`, click: (e) => this.toggle(i, e.altKey) }, make("i"), name));
    this.all = make("button", { type: "button", class: "hotseg-all", click: () => this.set("hidden", []) }, "All classes");
    this.legend = make("div", { class: "hotseg-legend", role: "group", "aria-label": "classes shown" }, ...this.chips, this.all);
    this.readout = make("div", { class: "hotseg-readout", role: "status", "aria-live": "polite" }, HINT);
    this.note = make("div", { class: "hotseg-note", role: "status", hidden: true });
    this.brush = make("div", { class: "hotseg-brush", hidden: true });
    this.root = make("div", { class: "hotseg-canvas", "data-frame": 0, "data-stale": 0, "data-lm-suppress-shortcuts": "true",
      style: space.width ? `max-width: ${space.width}px` : "" }, this.grid, this.note, this.bar, this.legend, this.readout);
    this.el.append(this.root);
  }

  listen() {
    const on = (name, f) => { this.model.on(name, f); this.undo.push(() => this.model.off(name, f)); };
    for (const name of LOCAL) on(`change:${name}`, () => { this.controls(); this.redraw(); });
    this.panels.forEach((_, i) => { on(`change:photo${i}`, () => this.load()); on(`change:layer${i}`, () => this.load()); });
    for (const name of ["stale", "busy"]) on(`change:${name}`, () => { this.heard(); this.mark(); });
    on("msg:custom", (message) => { if (message?.kind === "heard") this.heard(); });
    on("comm_live_update", () => this.later(0, () => this.lives()));
    on("comm:close", () => { this.gone = true; this.mark(); });
    const pulse = setInterval(() => this.lives(), PULSE);
    this.undo.push(() => clearInterval(pulse));
    const watch = new ResizeObserver(() => { this.attached(); this.resize(); });
    watch.observe(this.grid);
    this.undo.push(() => watch.disconnect());
  }

  later(ms, f) {
    const timer = setTimeout(() => { this.timers.delete(timer); if (!this.over) f(); }, ms);
    this.timers.add(timer);
    return timer;
  }

  dispose() {
    this.over = true;
    this.undo.forEach((f) => f());
    this.timers.forEach(clearTimeout);
    cancelAnimationFrame(this.next);
    this.photos.forEach((p) => p?.levels[0].close());
    this.root.remove();
  }

  // once the view is on the page

  attached() {
    if (this.seen || !this.root.isConnected) return;
    this.seen = true;
    this.lives();
  }

  // pixels from Python

  async load() {
    if (this.loading) { this.again = true; return; }
    this.loading = true;
    try {
      do { this.again = false; await this.receive(); } while (this.again && !this.over);
      if (this.fault) { this.fault = ""; this.mark(); }
    } catch (error) {
      this.fault = `these pictures could not be drawn: ${error.message}`;
      this.mark();
    } finally { this.loading = false; }
  }

  async receive() {
    const sources = this.panels.map((_, i) => this.model.get(`photo${i}`));
    const layers = this.panels.map((_, i) => this.model.get(`layer${i}`));
    const photos = await Promise.all(sources.map((s, i) => s === this.sources[i] ? this.photos[i] : decode(s)));
    if (this.over) return;
    photos.forEach((p, i) => {
      if (p === this.photos[i]) return;
      this.photos[i]?.levels[0].close();
      if (p) p.number = ++numbers;
    });
    Object.assign(this, { photos, sources });
    this.panels.forEach((p, i) => p.take(layers[i]));
    const shown = this.shownPanels(), kinds = new Set(shown.map((p) => p.layer.kind));
    this.grid.style.gridTemplateColumns = `repeat(${clamp(shown.length, 1, this.space.columns)}, minmax(0, 1fr))`;
    this.forHeat.hidden = !kinds.has("heat");
    this.forFlow.hidden = !kinds.has("flow");
    this.forSafe.hidden = this.legend.hidden = !kinds.has("labels");
    this.chips.forEach((chip, i) => chip.classList.toggle("hotseg-absent", !shown.some((p) => p.layer.has?.[i])));
    this.panels.forEach((p) => p.fit());
    this.draw();
    this.point(this.cursor);
  }

  shownPanels() { return this.panels.filter((p) => p.layer); }

  // drawing: at once for the first change in a frame, once more at its end for those that follow

  redraw() {
    if (this.waiting) { this.dirty = true; return; }
    this.draw();
    this.waiting = true;
    this.next = requestAnimationFrame(() => {
      this.waiting = false;
      if (this.dirty) { this.dirty = false; this.redraw(); }
    });
  }

  draw() {
    const shown = this.shownPanels();
    if (!shown.length) return;
    const look = this.look();
    for (const p of shown) p.paint(look);
    for (const p of shown) p.cross(this.cursor, look.window);
    this.bases = this.bases.filter((b) => b.used === this.frame);
    this.root.dataset.frame = ++this.frame;
  }

  /** A photograph in sight at the size of the screen, kept until it moves; panels share it. */
  photograph(photo, width, height, [top, left, rows, columns]) {
    const key = `${photo.number} ${width}x${height} ${[top, left, rows, columns]}`;
    let base = this.bases.find((b) => b.key === key);
    if (!base) {
      base = this.bases.find((b) => b.used !== this.frame) ?? this.bases[this.bases.push({ canvas: document.createElement("canvas") }) - 1];
      base.key = key;
      Object.assign(base.canvas, { width, height });
      const pen = base.canvas.getContext("2d"), full = photo.levels[0];
      const bitmap = levelOf(photo, width / columns * full.width), q = bitmap.width / full.width;
      pen.imageSmoothingEnabled = width < 3 * columns;
      pen.imageSmoothingQuality = "low";
      pen.drawImage(bitmap, left * q, top * q, columns * q, rows * q, 0, 0, width, height);
    }
    base.used = this.frame;
    return base.canvas;
  }

  look() {
    const look = Object.fromEntries(LOCAL.map((name) => [name, this.model.get(name)]));
    return { ...look, window: this.window() };
  }

  /** What is in sight: top, left, rows, columns of the image. */
  window() {
    const { rows, columns } = this.size(), [row, column, zoom] = this.model.get("view");
    const part = 1 / Math.max(1, zoom), h = rows * part, w = columns * part;
    return [clamp(row - h / 2, 0, rows - h), clamp(column - w / 2, 0, columns - w), h, w];
  }

  size() { return this.shownPanels()[0]?.layer ?? { rows: 1, columns: 1 }; }

  resize() {
    const changed = this.panels.map((p) => p.layer && p.fit());
    if (changed.some(Boolean)) this.redraw();
  }

  // local controls

  set(name, value) {
    this.model.set(name, value);
    this.save();
  }

  save() {
    if (this.saving) return;
    this.saving = this.later(40, () => { this.saving = null; try { this.model.save_changes(); } catch { this.lives(); } });
  }

  toggle(i, only) {
    const hidden = this.model.get("hidden"), others = this.space.classes.map((_, k) => k).filter((k) => k !== i);
    this.set("hidden", only ? others : hidden.includes(i) ? hidden.filter((k) => k !== i) : [...hidden, i]);
  }

  controls() {
    const { opacity, hidden, safe, threshold, arrows, view } = this.look(), percent = (v) => `${Math.round(100 * v)} %`;
    this.opacity.value = opacity; this.threshold.value = threshold;
    this.safe.checked = safe; this.arrows.checked = arrows;
    [percent(opacity), percent(threshold), `${figures(Math.max(1, view[2]))}×`].forEach((text, i) => { this.shares[i].textContent = text; });
    const colours = safe ? this.space.safe : this.space.palette;
    this.chips.forEach((chip, i) => {
      chip.setAttribute("aria-pressed", !hidden.includes(i));
      chip.firstChild.style.background = css(colours[i]);
    });
    this.all.hidden = !hidden.length;
    this.root.classList.toggle("hotseg-zoomed", view[2] > 1);
  }

  zoom(factor, at = this.cursor) {
    const { rows, columns } = this.size(), [top, left, h, w] = this.window(), old = Math.max(1, this.model.get("view")[2]);
    const zoom = clamp(old * factor, 1, Math.max(1, Math.min(rows, columns) / 8)), q = old / zoom;
    const inSight = at && at[0] >= top && at[0] <= top + h && at[1] >= left && at[1] <= left + w;
    const [row, column] = inSight ? at : [top + h / 2, left + w / 2];
    this.centre(row + (top + h / 2 - row) * q, column + (left + w / 2 - column) * q, zoom);
  }

  centre(row, column, zoom) {
    const { rows, columns } = this.size(), h = rows / zoom / 2, w = columns / zoom / 2;
    this.set("view", [clamp(row, h, rows - h), clamp(column, w, columns - w), zoom]);
  }

  // the cross hair and what lies under it

  point(cursor) {
    this.cursor = cursor;
    const sight = this.window();
    for (const p of this.shownPanels()) p.cross(cursor, sight);
    if (!cursor) { this.readout.replaceChildren(HINT); return; }
    const [row, column] = cursor, says = this.shownPanels().map((p) => [p.layer.title, p.says(row, column)]);
    this.readout.replaceChildren(make("span", {}, `row ${row}, column ${column}`),
      ...says.map(([title, text]) => make("span", {}, `${title} `, make("b", {}, text))));
  }

  /** The pixel of the image under the pointer, and the exact place. */
  under(event, panel) {
    const box = panel.canvas.getBoundingClientRect(), [top, left, h, w] = this.window(), { rows, columns } = this.size();
    const exact = [top + (event.clientY - box.top) / box.height * h, left + (event.clientX - box.left) / box.width * w];
    return { exact, pixel: [clamp(Math.floor(exact[0]), 0, rows - 1), clamp(Math.floor(exact[1]), 0, columns - 1)] };
  }

  press(event, panel) {
    if (event.button !== 0) return;
    panel.canvas.focus({ preventScroll: true });
    panel.canvas.setPointerCapture?.(event.pointerId);
    const [top, left, h, w] = this.window();
    this.drag = { panel, from: this.under(event, panel), x: event.clientX, y: event.clientY, brush: event.shiftKey, moved: false,
      middle: [top + h / 2, left + w / 2] };
    event.preventDefault();
  }

  move(event, panel) {
    const { drag } = this, { pixel } = this.under(event, panel);
    if (drag) {
      drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 4;
      if (drag.moved && drag.brush) this.showBrush(event);
      else if (drag.moved) this.pan(event);
    }
    if (!drag?.moved || drag.brush) this.hover(pixel);
  }

  hover(pixel) {
    this.readout.setAttribute("aria-live", "off");  // a moving pointer is not read out, the arrow keys are
    this.wanted = pixel;
    if (this.hovering) return;
    this.hovering = requestAnimationFrame(() => { this.hovering = null; if (!this.over) this.point(this.wanted); });
  }

  pan(event) {
    const { drag } = this, box = drag.panel.canvas.getBoundingClientRect(), [, , h, w] = this.window(), zoom = Math.max(1, this.model.get("view")[2]);
    this.root.classList.add("hotseg-dragging");
    this.centre(drag.middle[0] - (event.clientY - drag.y) / box.height * h, drag.middle[1] - (event.clientX - drag.x) / box.width * w, zoom);
  }

  showBrush(event) {
    const { drag } = this, box = drag.panel.stage.getBoundingClientRect();
    const [x0, x1] = [drag.x, event.clientX].map((x) => clamp(x - box.left, 0, box.width)).sort((a, b) => a - b);
    const [y0, y1] = [drag.y, event.clientY].map((y) => clamp(y - box.top, 0, box.height)).sort((a, b) => a - b);
    drag.panel.stage.append(this.brush);
    this.brush.hidden = false;
    Object.assign(this.brush.style, { left: `${x0}px`, top: `${y0}px`, width: `${x1 - x0}px`, height: `${y1 - y0}px` });
  }

  lift(event, panel) {
    const { drag } = this;
    this.drop();
    if (!drag) return;
    const { pixel } = this.under(event, panel), start = drag.from.pixel;
    if (!drag.moved) this.click(panel, pixel);
    else if (drag.brush) {
      const low = [0, 1].map((k) => Math.min(start[k], pixel[k])), high = [0, 1].map((k) => Math.max(start[k], pixel[k]) + 1);
      this.ask("brush", [panel.index, ...low, ...high]);
    }
  }

  drop() {
    this.drag = null;
    this.brush.hidden = true;
    this.root.classList.remove("hotseg-dragging");
  }

  leave() { if (!this.drag && !this.panels.some((p) => p.canvas === document.activeElement)) this.hover(null); }

  wheel(event, panel) {
    if (!event.ctrlKey && !event.metaKey && !this.root.contains(document.activeElement)) return;  // the page scrolls
    event.preventDefault();
    this.zoom(2 ** (-event.deltaY / (event.deltaMode ? 6 : 240)), this.under(event, panel).exact);
  }

  click(panel, pixel) {
    this.point(pixel);
    this.ask("click", [panel.index, ...pixel]);
  }

  focus() {
    if (this.cursor) return;
    const [top, left, h, w] = this.window();
    if (this.shownPanels().length) this.point([Math.floor(top + h / 2), Math.floor(left + w / 2)]);
  }

  key(event, panel) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const opacity = this.model.get("opacity"), step = ([r, c]) => () => this.step(r, c, event.shiftKey);
    const does = { ArrowUp: step([-1, 0]), ArrowDown: step([1, 0]), ArrowLeft: step([0, -1]), ArrowRight: step([0, 1]),
      "+": () => this.zoom(2), "=": () => this.zoom(2), "-": () => this.zoom(.5), 0: () => this.set("view", [0, 0, 1]),
      "[": () => this.set("opacity", clamp(opacity - .1, 0, 1)), "]": () => this.set("opacity", clamp(opacity + .1, 0, 1)),
      c: () => this.set("safe", !this.model.get("safe")), Enter: () => this.cursor && this.click(panel, this.cursor) }[event.key];
    event.stopPropagation();
    if (!does) return;
    event.preventDefault();
    does();
  }

  /** Move the cross hair by a hundredth of what is in sight, with shift by a pixel; the view follows. */
  step(down, across, fine) {
    const { rows, columns } = this.size(), [top, left, h, w] = this.window(), far = fine ? 1 : Math.max(1, Math.round(w / 100));
    const [r, c] = this.cursor ?? [top + h / 2, left + w / 2];
    const row = Math.floor(clamp(r + down * far, 0, rows - 1)), column = Math.floor(clamp(c + across * far, 0, columns - 1));
    this.readout.setAttribute("aria-live", "polite");
    this.point([row, column]);
    if (row < top || row + 1 > top + h || column < left || column + 1 > left + w)
      this.centre(clamp(top + h / 2, row + 1 - h / 2, row + h / 2), clamp(left + w / 2, column + 1 - w / 2, column + w / 2), this.model.get("view")[2]);
  }

  // Python: asked, heard, computing, gone

  ask(kind, values) {
    clearTimeout(this.patience);
    this.patience = this.later(PATIENCE, () => { this.silent = true; this.mark(); });
    try { this.model.send({ kind, number: ++this.asked, values }); } catch { this.gone = true; this.mark(); }
  }

  heard() {
    clearTimeout(this.patience);
    this.silent = false;
    this.mark();
  }

  /** Is there a kernel, and does it know this model? Nobody tells a view when either goes. */
  async lives() {
    const manager = this.model.widget_manager, kernel = manager?.kernel;
    let gone = manager && "kernel" in manager && (!kernel || kernel.isDisposed || kernel.status === "dead");
    if (manager?.get_model && this.space.model && !gone)
      gone = await manager.get_model(this.space.model).then((own) => own.comm_live === false, () => true);
    if (this.over || this.gone === Boolean(gone)) return;
    this.gone = Boolean(gone);
    this.mark();
  }

  mark() {
    const words = this.gone ? "Python is gone: these pictures stay as they are"
      : this.fault ? this.fault : this.silent ? "no answer from Python yet" : this.model.get("stale") ? this.model.get("busy") || "computing" : "";
    this.root.dataset.stale = words ? 1 : 0;
    this.root.classList.toggle("hotseg-gone", this.gone);
    this.note.textContent = words;
    this.note.hidden = !words;
    this.grid.setAttribute("aria-busy", Boolean(words));
  }
}

let numbers = 0;

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.dispose();
  },
};
