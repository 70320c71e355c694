// The drawing of a chart: uPlot, told our axes, colours and dashes. Its canvas says nothing to who does not see it.

import { h } from "./dom.js";
import { count, measure } from "./format.js";
import { linearTicks, logTicks, stepRange, valueRange } from "./ticks.js";

const HEIGHT = 230;
/** Pixels that the names of values and the edge take of the width; and what a name of a step takes. */
const ASIDE = 66;
const NAME = 65;
const FONT = "12px system-ui, sans-serif";
/** Colours of the lines, by custom property, and their dashes: no two lines differ by colour alone. */
const COLOURS = ["--accent", "--good", "--mixed", "--held", "--bad", "--muted"];
const DASHES = [[], [7, 2], [5, 3], [2, 3], [8, 3, 2, 3], [1, 4]];
export const STYLES = COLOURS.length;

const percentage = (share) => `${measure(100 * share)} %`;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

/** The plots that are on the page. */
const shown = new Set();

/** Let go of those that have left it; one that comes back is shown again. */
function prune() {
  for (const plot of shown) if (!plot.place.isConnected) plot.leave();
}

/** The page has turned light or dark. */
function redraw() {
  prune();
  for (const { drawn } of shown) drawn?.redraw();
}

window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });

function line(i) {
  const stroke = () => colour(COLOURS[i % STYLES]);
  return { stroke, points: { size: 5, stroke, fill: stroke }, width: 1.75, dash: DASHES[i % STYLES], spanGaps: true };
}

export class Plot {
  /** `along`, `say` and `across` are a chart's; `onpoint` is told the place of the step under the pointer, or null. */
  constructor(place, { along, say, share, across }, onpoint) {
    this.place = place;
    this.along = along;
    this.say = say;
    this.share = share;
    this.across = across;
    this.onpoint = onpoint;
  }

  leave() {
    shown.delete(this);
    this.drawn?.destroy();
    this.drawn = this.shape = null;
  }

  /** Draw `lines`, maps of a step to its value; `steps` are all of theirs, in order. `log`: values by logarithm. */
  show(steps, lines, log, width) {
    if (!shown.has(this)) prune();
    shown.add(this);
    this.steps = steps;
    const values = lines.flatMap((points) => [...points.values()]);
    this.reach = { x: stepRange(steps, this.across === "log"), y: this.share ? [0, 1] : valueRange(values, log) };
    const shape = JSON.stringify([lines.length, log, steps.length > 0]);
    const data = [steps, ...lines.map((points) => steps.map((step) => points.get(step) ?? null))];
    if (shape !== this.shape) this.build(data, log, width);
    else if (this.drawn) {
      if (this.drawn.width !== width) this.drawn.setSize({ width, height: HEIGHT });
      this.drawn.setData(data);
    }
    this.shape = shape;
  }

  /** Begin anew: for another number of lines, or another kind of axis. */
  build(data, log, width) {
    this.drawn?.destroy();
    this.drawn = null;
    this.place.replaceChildren();
    if (data[0].length === 0) this.place.append(h("p", { class: "empty" }, "No points"));
    else this.drawn = new window.uPlot(this.options(data.length - 1, log, width), data, this.place);
  }

  options(lines, log, width) {
    const axis = { stroke: () => colour("--muted"), font: FONT, labelFont: FONT, filter: (_, found) => found };
    const grid = { stroke: () => colour("--line"), width: 1 };
    const scale = (name, logarithmic) => ({ time: false, distr: logarithmic ? 3 : 1, range: () => this.reach[name] });
    return {
      width,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { x: scale("x", this.across === "log"), y: scale("y", log) },
      axes: [
        {
          ...axis, grid: { show: false }, ticks: { ...grid, size: 4 }, size: 26, gap: 4,
          label: this.along, labelSize: 18, labelGap: 0,
          splits: (u) => this.ticks(u.width), values: (_, found) => found.map(this.say),
        },
        {
          ...axis, grid, ticks: { show: false }, size: 52, gap: 8, values: (_, found) => found.map(this.share ? percentage : measure),
          splits: () => (log ? logTicks(...this.reach.y) : linearTicks(...this.reach.y, this.share ? 5 : 4)),
        },
      ],
      series: [{}, ...Array.from({ length: lines }, (_, i) => line(i))],
      hooks: { setCursor: [({ cursor }) => this.moving || this.onpoint(cursor.idx ?? null)] },
    };
  }

  /** The steps that are named: few ones by logarithm are all named, whole ones never between. */
  ticks(width) {
    const [low, high] = this.reach.x;
    const most = Math.max(2, (width - ASIDE) / NAME);
    if (this.across === "log") return this.steps.length > most ? logTicks(low, high) : this.steps;
    return linearTicks(low, high, this.say === count ? Math.min(Math.ceil(high - low), most) : most);
  }

  /** Mark a step; null: none. */
  mark(step) {
    if (!this.drawn) return;
    this.moving = true;
    const left = step === null ? -10 : this.drawn.valToPos(step, "x");
    this.drawn.setCursor({ left, top: step === null ? -10 : 0 });
    this.moving = false;
  }
}
