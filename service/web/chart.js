// Lines in plain SVG: linear steps across, linear or logarithmic values up, a read-out for pointer and keys.

import { h, setText, svg } from "./dom.js";
import { count, measure } from "./format.js";

const HEIGHT = 230;
const MARGIN = { left: 52, right: 14, top: 10, bottom: 40 };

/** About `n` round numbers within [low, high]. */
export function linearTicks(low, high, n) {
  const rough = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((m) => m * power >= rough) ?? 10);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k += 1) ticks.push(k * step + 0); // never -0
  return ticks;
}

/** Decades within [low, high]; with 2 and 5 between where there are few, and linear ones where there is hardly any. */
export function logTicks(low, high) {
  const decades = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) decades.push(10 ** e);
  const within = (factors) => decades.flatMap((d) => factors.map((f) => f * d)).filter((v) => v >= low && v <= high);
  const plain = within([1]);
  if (plain.length >= 3) return plain;
  const finer = within([1, 2, 5]);
  return finer.length >= 2 ? finer : linearTicks(low, high, 3);
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return low < high ? [low, high] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
}

/** Data to pixels, for the points that the axis can show. */
function scales(points, width, log) {
  const [x0, x1] = extent(points.map(([x]) => x));
  const [y0, y1] = extent(points.map(([, y]) => (log ? Math.log10(y) : y)));
  const pad = 0.05 * (y1 - y0);
  const [bottom, top] = [log || y0 < 0 ? y0 - pad : 0, y1 + pad];
  const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
  return {
    x: (v) => MARGIN.left + (inner.width * (v - x0)) / (x1 - x0),
    y: (v) => MARGIN.top + inner.height * (1 - ((log ? Math.log10(v) : v) - bottom) / (top - bottom)),
    xTicks: linearTicks(x0, x1, Math.min(Math.ceil(x1 - x0), Math.max(2, inner.width / 65))), // steps are whole
    yTicks: log ? logTicks(10 ** bottom, 10 ** top) : linearTicks(bottom, top, 4),
    floor: HEIGHT - MARGIN.bottom,
    right: width - MARGIN.right,
  };
}

function axes(at, name) {
  const across = at.yTicks.map((v) =>
    svg(
      "g",
      { class: "tick" },
      svg("line", { x1: MARGIN.left, x2: at.right, y1: at.y(v), y2: at.y(v) }),
      svg("text", { x: MARGIN.left - 8, y: at.y(v), dy: "0.32em", "text-anchor": "end" }, measure(v)),
    ),
  );
  const along = at.xTicks.map((v) =>
    svg(
      "g",
      { class: "tick" },
      svg("line", { x1: at.x(v), x2: at.x(v), y1: at.floor, y2: at.floor + 4 }),
      svg("text", { x: at.x(v), y: at.floor + 18, "text-anchor": "middle" }, count(v)),
    ),
  );
  const line = svg("line", { class: "axis", x1: MARGIN.left, x2: at.right, y1: at.floor, y2: at.floor });
  return svg(
    "g",
    {},
    ...across,
    ...along,
    line,
    svg("text", { class: "axis-name", x: at.right, y: HEIGHT - 4 }, name),
  );
}

class LineChart {
  constructor(title, { controls, log, along, names }) {
    this.title = title;
    this.along = along;
    this.names = names;
    this.lines = names.map(() => []);
    this.keys = names.map((name, i) => h("span", { class: "key", "data-line": i, hidden: true }, name));
    this.chosen = null;
    this.marker = svg("g", { class: "marker" });
    this.frame = svg("svg", { height: HEIGHT, tabindex: 0, role: "slider", "aria-orientation": "horizontal" });
    // What is said of several lines stands beside their names, so that it covers none of them.
    this.readout = h("span", { class: names.length > 1 ? "key-step" : "readout" });
    this.plot = h("div", { class: "plot" }, this.frame, ...(names.length > 1 ? [] : [this.readout]));
    this.log = h("input", { type: "checkbox", checked: log, onchange: () => this.draw() });
    const heading = h("span", { class: "chart-title" }, title);
    this.node = h(
      "figure",
      { class: "chart" },
      h(
        "figcaption",
        {},
        heading,
        ...(names.length > 1 ? [this.readout, ...this.keys] : []),
        ...controls,
        h("label", { class: "check", title: "Logarithmic axis", hidden: log === null }, this.log, "Log"),
      ),
      this.plot,
    );
    this.frame.addEventListener("pointermove", (event) => this.point(event));
    this.frame.addEventListener("pointerleave", () => this.choose(null));
    this.frame.addEventListener("blur", () => this.choose(null));
    this.frame.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  /** Show `lines`, each of pairs of a step and a value in the order of the steps; screen readers call them `title`. */
  update(lines, title = this.title) {
    if (title !== this.title) this.chosen = null;
    this.title = title;
    this.lines = lines;
    this.keys.forEach((key, i) => {
      key.hidden = lines[i].length === 0;
    });
    this.draw();
  }

  get empty() {
    return this.lines.every((points) => points.length === 0);
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width) return;
    // A logarithm shows nothing below zero and nothing of zeros alone: there the axis is linear, whatever is chosen.
    const values = this.lines.flat().map(([, y]) => y);
    this.log.disabled = values.some((y) => y < 0) || values.every((y) => y === 0);
    const log = this.log.checked && !this.log.disabled;
    const visible = ([x, y]) => Number.isFinite(x) && Number.isFinite(y) && (!log || y > 0);
    this.shown = this.lines.map((points) => points.filter(visible));
    const all = this.shown.flat();
    this.steps = [...new Set(all.map(([x]) => x))].sort((a, b) => a - b);
    this.frame.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    if (all.length === 0) {
      const text = svg("text", { class: "empty", x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "No points");
      this.frame.replaceChildren(text);
    } else {
      this.at = scales(all, width, log);
      const [first] = this.shown.filter((points) => points.length > 0);
      this.readout.classList.toggle("left", first.at(-1)[1] > first[0][1]); // off the end of a rising line
      this.frame.replaceChildren(axes(this.at, this.along), ...this.shown.map((p, i) => this.path(p, i)), this.marker);
    }
    this.choose(this.chosen);
  }

  path(points, line) {
    const drawn = points.length === 1 ? [points[0], points[0]] : points; // one point is a dot
    const d = drawn.map(([x, y], i) => `${i ? "L" : "M"}${this.at.x(x).toFixed(1)} ${this.at.y(y).toFixed(1)}`);
    return svg("path", { class: "line", "data-line": line, d: d.join("") });
  }

  /** Mark step number `index`, or the last one when null, and read it out. */
  choose(index) {
    const last = (this.steps?.length ?? 0) - 1;
    this.chosen = index === null ? null : Math.max(0, Math.min(last, index));
    const shownIndex = this.chosen ?? last;
    const step = this.steps?.[shownIndex];
    const found = (this.shown ?? []).map((points) => points.find(([x]) => x === step));
    const said = found.map((point, i) => (point ? `${this.names[i]} ${measure(point[1])}`.trim() : this.names[i]));
    const at = last < 0 ? "" : `${this.along} ${count(step)}`;
    const text = at && `${at}: ${said.filter((_, i) => found[i]).join(", ")}`;
    this.keys.forEach((key, i) => setText(key, said[i]));
    setText(this.readout, this.names.length > 1 ? at : text);
    const slider = { "aria-label": this.title, "aria-valuemin": 0, "aria-valuemax": Math.max(0, last) };
    slider["aria-valuenow"] = Math.max(0, shownIndex);
    slider["aria-valuetext"] = text || "no points";
    for (const [name, value] of Object.entries(slider)) this.frame.setAttribute(name, value);
    if (last >= 0) this.mark(step, found);
  }

  mark(step, found) {
    const x = this.at.x(step);
    const hair = svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: this.at.floor });
    const dots = found.flatMap((point, i) =>
      point ? [svg("circle", { "data-line": i, cx: x, cy: this.at.y(point[1]), r: 3.5 })] : [],
    );
    this.marker.replaceChildren(...(this.chosen === null ? [] : [hair]), ...dots);
  }

  point(event) {
    if (!this.steps?.length) return;
    const x = event.clientX - this.frame.getBoundingClientRect().left;
    const distances = this.steps.map((step) => Math.abs(this.at.x(step) - x));
    this.choose(distances.indexOf(Math.min(...distances)));
  }

  key(event) {
    const last = (this.steps?.length ?? 0) - 1;
    const from = this.chosen ?? last;
    const page = Math.max(1, Math.round(last / 10));
    const to = {
      ArrowLeft: from - 1,
      ArrowDown: from - 1,
      ArrowRight: from + 1,
      ArrowUp: from + 1,
      PageDown: from - page,
      PageUp: from + page,
      Home: 0,
      End: last,
    }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.choose(to);
  }
}

/**
 * `controls` are shown beside the title. `log`: begin with a logarithmic axis; null: never offer one. `along` is what a
 * step is called. `names` are of the lines, where there are several.
 */
export const lineChart = (title, { controls = [], log = true, along = "step", names = [""] } = {}) =>
  new LineChart(title, { controls, log, along, names });
