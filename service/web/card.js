// An item in the grid: its pictures, and in a line what came of it. All cards are equally high.

import { changes, h, setText } from "./dom.js";
import { count, measure, plural } from "./format.js";
import { itemName, Pictures, sourceName, views } from "./picture.js";
import { Badge } from "./ui.js";

/** What a card says of its result, by the first of these metrics that the item has. */
const SHORT = {
  ghosting: { relative_distance: "distance", ghosting: "ghosting", blend_ghosting: "blend's ghosting" },
  activation: { activation: "activation", prediction: "predicts" },
  relative_distance: { relative_distance: "distance", ssim: "SSIM" },
  rows: { rows: "rows", columns: "columns" },
};

const shown = (value) => (Number.isInteger(value) ? count(value) : measure(value));
const steps = (metrics) => plural(metrics.steps_taken, "step");

export function numbers(item) {
  const pair = (label, value) => h("span", {}, h("span", { class: "muted" }, `${label} `), value);
  if (item.error) return [h("span", { class: "bad-text" }, String(item.error.title))];
  if (!item.metrics) return [h("span", { class: "muted" }, sourceName(item.target))];
  const { metrics } = item;
  const kind = Object.keys(SHORT).find((name) => name in metrics);
  const found = Object.entries(SHORT[kind] ?? {}).map(([name, label]) => pair(label, shown(metrics[name])));
  if (metrics.reached === true) found.push(h("span", { class: "good-text" }, `✓ after ${steps(metrics)}`));
  if (metrics.reached === false) found.push(h("span", { class: "bad-text" }, `✗ not in ${steps(metrics)}`));
  if (metrics.judge_agrees === true) found.push(h("span", { class: "good-text" }, "✓ judge agrees"));
  if (metrics.judge_agrees === false)
    found.push(h("span", { class: "bad-text" }, `✗ judge: ${metrics.judge_prediction}`));
  return found;
}

export class Card {
  /** `open()` is called on a click, `choose(chosen)` as the item is chosen or no longer. */
  constructor({ open, choose }) {
    this.pictures = new Pictures();
    this.badge = new Badge();
    this.open = h("button", { type: "button", class: "open", "aria-haspopup": "dialog", onclick: open }, "Loading…");
    this.box = h("input", { type: "checkbox", onchange: () => choose(this.box.checked) });
    this.numbers = h("p", { class: "numbers" });
    this.news = changes();
    const head = h("div", { class: "card-head" }, this.open, this.badge.node, this.box);
    this.node = h("li", { class: "card", "data-blank": true }, head, this.pictures.node, this.numbers);
  }

  /** Answers whether anything changed. */
  show(item, chosen) {
    this.box.checked = chosen;
    if (!this.news(item)) return false;
    this.item = item;
    delete this.node.dataset.blank;
    const name = `#${item.index} ${itemName(item)}`;
    this.badge.set(item.state);
    this.badge.node.hidden = item.state === "succeeded";
    setText(this.open, name);
    this.open.title = name;
    this.box.setAttribute("aria-label", `Choose item ${item.index}`);
    this.pictures.show(item, views(item));
    this.numbers.replaceChildren(...numbers(item));
    return true;
  }

  /** Pictures that are still on their way are no longer waited for. */
  drop() {
    for (const image of this.node.querySelectorAll("img")) if (!image.complete) image.removeAttribute("src");
  }
}
