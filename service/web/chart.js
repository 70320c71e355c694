// Lines over steps, with what is read out, by pointer or by keys, and the table of values; plot.js draws them.

import { h, setText } from "./dom.js";
import { count, measure } from "./format.js";
import { Plot, STYLES } from "./plot.js";
import { wideTable } from "./tables.js";

const MOST_ROWS = 200;

/** Every so manieth of `steps`, and the last. */
const thinned = (steps) => {
  const every = Math.ceil(steps.length / MOST_ROWS);
  return steps.filter((_, i) => i % every === 0 || i === steps.length - 1);
};

class LineChart {
  constructor(title, options) {
    this.title = title;
    this.options = options;
    this.lines = options.names.map(() => []);
    this.points = [];
    this.steps = [];
    this.chosen = null;
    this.keys = h("span", { class: "keys" });
    this.readout = h("span", { class: "key-step" });
    this.plot = h("div", { class: "plot", tabindex: 0, role: "slider", "aria-orientation": "horizontal" });
    this.log = h("input", { type: "checkbox", checked: options.log, onchange: () => this.draw() });
    this.table = h("div");
    const opened = () => this.tabulate();
    this.values = h("details", { class: "values", ontoggle: opened }, h("summary", {}, "Values"), this.table);
    const check = h("label", { class: "check", title: "Logarithmic axis", hidden: options.log === null }, this.log, "Log");
    this.heading = h("span", { class: "chart-title" }, title);
    const head = [this.heading, this.readout, this.keys, ...options.controls, check];
    this.node = h("figure", { class: "chart" }, h("figcaption", {}, ...head), this.plot, this.values);
    this.name(options.names);
    this.plot.addEventListener("blur", () => this.choose(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
    this.drawing = new Plot(this.plot, options, (index) => this.choose(index));
  }

  /** Show `lines`, each of pairs of a step and a value in the order of the steps; screen readers call them `title`. */
  update(lines, title = this.title, names = this.names) {
    if (title !== this.title) this.chosen = null;
    this.title = title;
    this.lines = lines;
    if (names.join("\n") !== this.names.join("\n")) this.name(names);
    this.draw();
  }

  get empty() {
    return this.lines.every((points) => points.length === 0);
  }

  name(names) {
    this.names = names;
    const keys = names.map((name, i) => h("span", { class: "key", "data-line": i % STYLES }, name));
    this.keys.replaceChildren(...(names.length > 1 ? keys : []));
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width) return;
    // A logarithm shows nothing below zero and nothing of zeros alone: there the axis is linear, whatever is chosen.
    const values = this.lines.flat().map(([, y]) => y);
    this.log.disabled = values.some((y) => y < 0) || values.every((y) => y === 0);
    const log = this.log.checked && !this.log.disabled;
    const visible = ([x, y]) => Number.isFinite(x) && Number.isFinite(y) && (!log || y > 0);
    this.points = this.lines.map((points) => new Map(points.filter(visible)));
    this.steps = [...new Set(this.points.flatMap((points) => [...points.keys()]))].sort((a, b) => a - b);
    this.drawing.show(this.steps, this.points, log, width);
    this.choose(this.chosen);
    this.tabulate();
  }

  /** Mark step number `index`, or none when null, and read it or the last one out. */
  choose(index) {
    const last = this.steps.length - 1;
    this.chosen = index === null ? null : Math.max(0, Math.min(last, index));
    const at = this.chosen ?? last;
    const step = this.steps[at];
    const values = this.points.map((points) => points.get(step));
    const said = values.map((value, i) => (value === undefined ? "" : `${this.names[i]} ${this.options.value(value)}`.trim()));
    const where = last < 0 ? "" : `${this.options.along} ${this.options.say(step)}`;
    const text = where && `${where}: ${said.filter(Boolean).join(", ")}`;
    [...this.keys.children].forEach((key, i) => {
      key.hidden = !this.lines[i]?.length;
      setText(key, said[i] || this.names[i]);
    });
    setText(this.readout, this.names.length > 1 ? where : text);
    const slider = { "aria-label": this.title, "aria-valuemin": 0, "aria-valuemax": Math.max(0, last) };
    slider["aria-valuenow"] = Math.max(0, at);
    slider["aria-valuetext"] = text || "no points";
    for (const [name, value] of Object.entries(slider)) this.plot.setAttribute(name, value);
    this.drawing.mark(this.chosen === null ? null : step);
    this.options.onchoose(this.chosen === null ? null : step);
  }

  /** Mark the step that there is before `step`, or at it. */
  point(step) {
    if (this.steps.length) this.choose(Math.max(0, this.steps.findLastIndex((each) => each <= step)));
  }

  key(event) {
    const last = this.steps.length - 1;
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

  /** The values as a table, for those who read rather than see; made when it is open. */
  tabulate() {
    this.values.hidden = this.steps.length === 0;
    if (!this.values.open) return;
    const { along, say, value: written } = this.options;
    const heads = [along, ...this.names.map((name) => name || this.title)];
    const value = (points, step) => (points.has(step) ? written(points.get(step)) : "–");
    const rows = thinned(this.steps).map((step) => [say(step), ...this.points.map((points) => value(points, step))]);
    this.table.replaceChildren(wideTable(`${this.title}, values`, heads, rows));
  }
}

/**
 * `controls` are shown beside the title. `log`: begin with a logarithmic axis; null: never offer one. `along` is what a
 * step is called, `say` how it is written, `value` how a value is, `share` whether values are shares of 1, `across` "log" if steps are shown by their logarithm. `names` are of the
 * lines, where there are several. `onchoose` is told the step that is pointed at, or null.
 */
export const lineChart = (title, options = {}) =>
  new LineChart(title, {
    controls: [], log: true, along: "step", say: count, value: measure, share: false, across: "linear", names: [""], onchoose: () => {}, ...options,
  });
