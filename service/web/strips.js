// Paths between pairs of images: through the representation of each network, and in pixels, under one lambda.

import { arrange, changes, h, setAttribute } from "./dom.js";
import { measure, plural } from "./format.js";
import { sourceName } from "./picture.js";
import { grouped, More, panel, Shot, slider, still } from "./shots.js";

const FEW = 12;
const PIXELS = "pixel blend";
const METRICS = { relative_distance: "distance", ghosting: "ghosting", judge_prediction: "judge:" };

const weightOf = ({ settings }) => settings.lambda;
const ends = ({ target: { first, second } }) =>
  [second, first].map((end) => end.label ?? sourceName(end)).join(" to ");

/** What a caption says of an item beside its network. */
function found({ metrics, error }) {
  if (error) return String(error.title);
  const said = Object.entries(METRICS).filter(([name]) => (metrics?.[name] ?? null) !== null);
  return said.map(([name, label]) => `${label} ${measure(metrics[name])}`).join(" · ");
}

/** One pair: large pictures at the chosen lambda, and below them the strip of all, a row a path. */
class Pair {
  constructor(choose) {
    this.choose = choose;
    this.changed = changes();
    this.title = h("h3");
    this.stage = h("div", { class: "stage" });
    this.strip = h("div", { class: "strip", role: "group", tabindex: 0 });
    this.node = h("article", { class: "pair" }, this.title, this.stage, this.strip);
  }

  /** `paths` are pairs of a name and the items of it, in the order of lambda. */
  show({ paths, weights, at }) {
    if (this.changed([paths, weights])) this.draw(paths, weights);
    this.move(weights, at);
  }

  draw(paths, weights) {
    const [[, items]] = paths;
    this.title.textContent = `#${items[0].settings.pair} ${ends(items[0])}`;
    setAttribute(this.strip, "aria-label", `Strip of ${ends(items[0])}`);
    this.rows = [[PIXELS, "target.png", items], ...paths.map(([name, own]) => [name, "result.png", own])];
    this.shots = this.rows.map((_, i) => this.shots?.[i] ?? new Shot());
    arrange(
      this.stage,
      this.shots.map(({ node }) => node),
    );
    this.strip.style.setProperty("--columns", weights.length);
    this.strip.replaceChildren(...this.rows.flatMap(([name, file, own]) => this.row(name, file, own, weights)));
  }

  row(name, file, items, weights) {
    const cells = weights.map((weight, i) => {
      const item = items.find((each) => weightOf(each) === weight);
      const label = `${name}, lambda ${measure(weight)}`;
      // The slider does the same by keys, and is one stop where these would be a hundred.
      const press = { type: "button", tabindex: -1, "data-column": i, "aria-label": label, onclick: () => this.choose(i) };
      return h("button", press, item ? still(item, file, "", label) : null);
    });
    return [h("span", { class: "strip-name" }, name), ...cells];
  }

  move(weights, at) {
    this.rows.forEach(([name, file, items], i) => {
      const item = items.find((each) => weightOf(each) === weights[at]);
      const blend = item?.metrics?.blend_ghosting ?? null;
      const more = file === "target.png" ? (blend === null ? "" : `ghosting ${measure(blend)}`) : item ? found(item) : "";
      this.shots[i].show(item, file, [name, more].filter(Boolean).join(": "), `${name} at lambda ${measure(weights[at])}`);
    });
    for (const cell of this.strip.querySelectorAll("button")) {
      const chosen = Number(cell.dataset.column) === at;
      cell.toggleAttribute("data-chosen", chosen);
      // An update alone does not move what was scrolled by hand.
      if (chosen && at !== this.at) this.strip.scrollLeft = cell.offsetLeft - this.strip.clientWidth / 2;
    }
    this.at = at;
  }
}

export class Strips {
  constructor() {
    this.weights = [];
    this.place = h("div");
    this.pairs = new More(FEW, () => new Pair((at) => this.move(at)));
    this.node = panel("Interpolation", "", this.place, this.pairs.node);
    this.about = this.node.querySelector("small");
  }

  show(parts) {
    const weights = [...new Set(parts.flatMap(({ items }) => items.map(weightOf)))].sort((a, b) => a - b);
    if (weights.join() !== this.weights.join()) this.begin(weights);
    const byPair = parts.map(({ items }) => grouped(items, ({ settings }) => settings.pair));
    const keys = [...new Set(byPair.flatMap((pairs) => [...pairs.keys()]))];
    this.about.textContent = `${plural(keys.length, "pair")}; lambda is the weight of the image on the right, the request's first`;
    this.all = keys.map((key) => {
      const paths = parts.flatMap(({ name }, i) => (byPair[i].has(key) ? [[name, byPair[i].get(key)]] : []));
      return [key, { paths, weights, at: this.at }];
    });
    this.pairs.show(this.all);
  }

  begin(weights) {
    this.weights = weights;
    this.at = Math.floor(weights.length / 2);
    const say = (i) => measure(weights[i]);
    const onmove = (at) => this.move(at);
    this.slider = slider("λ", { max: weights.length - 1, value: this.at, say, onmove });
    setAttribute(this.slider.input, "aria-label", "Lambda");
    this.place.replaceChildren(this.slider.node);
    this.place.className = "sticky";
  }

  move(at) {
    this.at = at;
    this.slider.set(at);
    for (const [, each] of this.all) each.at = at;
    for (const pair of this.pairs.made.values()) pair.move(this.weights, at);
  }
}
