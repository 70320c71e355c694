// An item of one job beside its partner of another: as a card, and looked at closely.

import { changes, h, setText } from "./dom.js";
import { METRICS } from "./facts.js";
import { measure } from "./format.js";
import { Frames } from "./frames.js";
import { Lightbox } from "./lightbox.js";
import { metricLabel } from "./order.js";
import { numeric, signed } from "./pairing.js";
import { artifact, itemName, Picture, sourceName, views } from "./picture.js";
import { source } from "./detail.js";
import { Traces } from "./traces.js";
import { note } from "./ui.js";
import { Viewer, VIEWER_KEYS } from "./viewer.js";

const SHORT = { relative_distance: "distance", activation: "activation", ghosting: "ghosting", ssim: "SSIM" };
/** What stands in place of a partner that there is not. */
const NOBODY = { state: "cancelled", artifacts: [], target: {}, start: {} };


/** A metric of both and how much more the second has; empty where neither has it. */
function compared(first, second, name) {
  const [a, b] = [numeric(first, name), numeric(second, name)];
  if (a === undefined && b === undefined) return [];
  return [measure(a), measure(b), a === undefined || b === undefined ? "–" : signed(b - a)];
}

/** The pictures that both have in common, then each one's result; `names` are what the jobs are called. */
function layout(item, names) {
  const common = views(item).filter(([file]) => file !== "result.png");
  return { common, results: names.map((name) => ["result.png", name]) };
}

export class PairCard {
  constructor({ open }) {
    this.open = h("button", { type: "button", class: "open", "aria-haspopup": "dialog", onclick: open }, "Loading…");
    this.pictures = h("div", { class: "pictures" });
    this.numbers = h("p", { class: "numbers" });
    this.news = changes();
    const head = h("div", { class: "card-head" }, this.open);
    this.node = h("li", { class: "card", "data-blank": true }, head, this.pictures, this.numbers);
  }

  /** `none` is said where there is no partner. */
  show([first, second], names, none) {
    if (!this.news([first, second])) return;
    this.item = first;
    delete this.node.dataset.blank;
    setText(this.open, `#${first.index} ${itemName(first)}`);
    const { common, results } = layout(first, names);
    const wanted = [...common, ...results];
    this.shown ??= wanted.map((view) => new Picture(view));
    this.shown.forEach((picture, i) => picture.update(i === wanted.length - 1 ? (second ?? NOBODY) : first));
    this.pictures.replaceChildren(...this.shown.map(({ node }) => node));
    const lines = Object.entries(SHORT).map(([name, label]) => [label, compared(first, second, name)]);
    const seen = lines.filter(([, values]) => values.length > 0).slice(0, 2);
    this.numbers.replaceChildren(
      ...seen.map(([label, [a, b, by]]) =>
        h("span", { class: "line" }, h("span", { class: "muted" }, `${label} `), `${a} → ${b} (${by})`),
      ),
    );
    if (!second) this.numbers.replaceChildren(h("span", { class: "muted" }, none));
  }

  drop() {
    for (const image of this.node.querySelectorAll("img")) if (!image.complete) image.removeAttribute("src");
  }
}

export class PairDetail {
  constructor(names, { step, closed }) {
    this.names = names;
    this.box = new Lightbox("Selected pair", {
      step,
      closed: () => {
        this.item = undefined;
        this.frames.show();
        this.viewer.run(false);
        closed();
      },
    });
    this.viewer = new Viewer(["a", "b"]);
    this.box.shortcut = (key) => this.viewer.shortcut(key);
    this.box.keys = VIEWER_KEYS;
    this.frames = new Frames((step) => this.framed(step));
    this.viewer.stage.after(this.frames.node);
    this.problem = h("div");
    const failed = (error) => this.problem.replaceChildren(note("mixed", "The curves could not be loaded", error.message));
    this.traces = new Traces("Curves", failed);
    this.head = h("tr", {}, h("td"), ...[...names, "difference"].map((text) => h("th", { scope: "col" }, text)));
    this.rows = h("tbody");
    const table = h("table", { class: "pairs", "aria-label": "Metrics" }, h("thead", {}, this.head), this.rows);
    this.box.body.append(h("div", { class: "looked-at" }, this.problem, this.viewer.node, this.traces.node), h("div", { class: "facts" }, table));
  }

  show([first, second], place = this.place) {
    this.place = place;
    if (this.item?.index !== first.index) {
      this.viewer.zoom.reset();
      this.withFrames = false;
      this.problem.replaceChildren();
    }
    [this.item, this.second] = [first, second];
    this.box.open(`#${first.index} ${itemName(first)}`, `${sourceName(first.target)}`, place);
    this.draw();
    this.showTraces();
    const rows = Object.keys(METRICS).map((name) => [metricLabel(name), compared(first, second, name)]);
    this.rows.replaceChildren(
      ...rows
        .filter(([, values]) => values.length > 0)
        .map(([label, values]) =>
          h("tr", {}, h("th", { scope: "row" }, label), ...values.map((value) => h("td", {}, value))),
        ),
    );
  }

  draw() {
    const { item: first, second, names } = this;
    const { common, results } = layout(first, names);
    const [a, b] = [source(first, results[0]), source(second ?? NOBODY, results[1])];
    const named = [{ ...a, name: "a" }, { ...b, name: "b" }];
    const paths = this.withFrames ? this.frames.shown.map((each, i) => this.path(each, i)) : [];
    this.viewer.show([...common.map((view) => source(first, view)), ...named, ...paths]);
  }

  path({ canvas, caption }, i) {
    return { name: `path-${i}`, title: `path, ${this.names[i]}`, caption: `${this.names[i]}, ${caption}`, canvas };
  }

  framed(step) {
    this.traces.chart.point(step);
    if (this.withFrames) this.draw();
  }

  /** Both curves in one chart and, where both have frames, these under one slider. */
  async showTraces() {
    const pair = [this.item, this.second];
    const traces = await this.traces.show(pair, this.names);
    if (traces === undefined || pair[0].index !== this.item?.index) return;
    const sheet = (item, i) => ({ url: item && artifact(item, "frames.png")?.url, steps: traces[i]?.frame_steps });
    this.withFrames = await this.frames.show(...pair.map(sheet)).catch(() => false);
    if (this.withFrames) this.framed(this.frames.steps.at(-1));
  }
}
