// How near a search comes within each radius: the curve of each network, and the images found at the radius pointed at.

import { lineChart } from "./chart.js";
import { arrange, changes, h } from "./dom.js";
import { measure } from "./format.js";
import { sourceName } from "./picture.js";
import { grouped, panel, Shot } from "./shots.js";

const ALL = "all";
const ABOUT = "point at a radius, or focus the chart and use the arrow keys, to see its images";

const distance = ({ metrics }) => metrics?.relative_distance ?? null;
const nameOf = (source) => source.label ?? sourceName(source);

/** The item in the middle by distance: of the two in the middle, the lower. */
function middle(items) {
  const done = items.filter((item) => distance(item) !== null).sort((a, b) => distance(a) - distance(b));
  return done[Math.floor((done.length - 1) / 2)] ?? items[0];
}

function median(values) {
  const ordered = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (ordered.length === 0) return null;
  const half = ordered.length / 2;
  return ordered.length % 2 ? ordered[Math.floor(half)] : (ordered[half - 1] + ordered[half]) / 2;
}

export class Sweep {
  constructor() {
    this.pair = h("select", { "aria-label": "Pair of images", onchange: () => this.draw() });
    this.offered = changes();
    this.chart = lineChart("Relative distance", {
      along: "radius",
      say: measure,
      across: "log",
      controls: [this.pair],
      onchoose: (radius) => this.look(radius),
    });
    this.shots = { target: new Shot(), start: new Shot(), results: [] };
    this.stage = h("div", { class: "stage" });
    const body = h("div", { class: "sweep" }, this.chart.node, this.stage);
    this.node = panel("Radius sweep", ABOUT, body);
  }

  show(parts) {
    this.parts = parts;
    this.shots.results = parts.map((_, i) => this.shots.results[i] ?? new Shot());
    arrange(
      this.stage,
      [this.shots.target, this.shots.start, ...this.shots.results].map(({ node }) => node),
    );
    this.offer(grouped(parts[0].items, ({ settings }) => settings.pair));
    this.draw();
  }

  offer(pairs) {
    const names = [...pairs].map(([pair, [{ target, start }]]) => [String(pair), `${nameOf(target)}, from ${nameOf(start)}`]);
    if (!this.offered(names)) return;
    const chosen = this.pair.value || ALL;
    const all = [ALL, `Median of ${pairs.size} pairs`];
    const options = [...(pairs.size > 1 ? [all] : []), ...names];
    this.pair.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
    if (options.some(([value]) => value === chosen)) this.pair.value = chosen;
  }

  /** A part's items of the chosen pair, or of all, by radius. */
  byRadius({ items }) {
    const chosen = this.pair.value;
    const own = items.filter(({ settings }) => chosen === ALL || String(settings.pair) === chosen);
    return grouped(own, ({ settings }) => settings.eps);
  }

  draw() {
    this.found = this.parts.map((part) => this.byRadius(part));
    const lines = this.found.map((radii) =>
      [...radii].map(([radius, items]) => [radius, median(items.map(distance))]).filter(([, value]) => value !== null),
    );
    const names = this.parts.length > 1 ? this.parts.map(({ name }) => name) : [""];
    this.chart.update(lines, this.chart.title, names);
    this.look(this.radius ?? null);
  }

  /** Show what was found within `radius`; null leaves the last one, at first the largest. For a median, its pair. */
  look(radius) {
    if (!this.found) return;
    this.radius = radius ?? this.radius ?? Math.max(...this.found.flatMap((radii) => [...radii.keys()]));
    const first = middle(this.found[0].get(this.radius) ?? []);
    if (!first) return;
    const { target, start, settings } = first;
    this.shots.target.show(first, "target.png", `target: ${nameOf(target)}`);
    this.shots.start.show(first, "start.png", `start: ${nameOf(start)}`);
    this.parts.forEach(({ name }, i) => {
      const item = this.found[i].get(this.radius)?.find((each) => each.settings.pair === settings.pair);
      const caption = `${name}, radius ${measure(this.radius)}: distance ${measure(item && distance(item))}`;
      this.shots.results[i].show(item, "result.png", caption);
    });
  }
}
