// The grid of items: the pictures of each, and under the selected one its detail.

import { listItems } from "./api.js";
import { Detail } from "./detail.js";
import { arrange, changes, h, setAttribute, setText } from "./dom.js";
import { count, isFinal, measure, plural } from "./format.js";
import { itemName, Pictures, sourceName, views } from "./picture.js";
import { announce, Badge, refusal } from "./ui.js";

const PAGE = 100;
/** Every this many polls ask for the items even when no count has changed: pictures may come before the state does. */
const ANYWAY = 5;

class Card {
  constructor(item, select) {
    this.pictures = new Pictures();
    this.badge = new Badge();
    this.open = h("button", { type: "button", class: "open", "aria-expanded": "false", onclick: select });
    this.numbers = h("p", { class: "numbers" });
    this.news = changes();
    this.node = h(
      "li",
      { class: "card", id: `item-${item.index}` },
      h("div", { class: "card-head" }, this.open, this.badge.node),
      this.pictures.node,
      this.numbers,
    );
    this.update(item);
  }

  update(item) {
    if (!this.news(item)) return false;
    this.item = item;
    this.badge.set(item.state);
    this.badge.node.hidden = item.state === "succeeded";
    setText(this.open, `#${item.index} ${itemName(item)}`);
    this.pictures.show(item, views(item));
    this.numbers.replaceChildren(...numbers(item));
    return true;
  }
}

/** What a card says of its result, by the first of these metrics that the item has. */
const SHORT = {
  ghosting: { relative_distance: "distance", ghosting: "ghosting", blend_ghosting: "blend's ghosting" },
  activation: { activation: "activation", prediction: "predicts" },
  relative_distance: { relative_distance: "distance", ssim: "SSIM" },
};

const steps = (metrics) => plural(metrics.steps_taken, "step");

function numbers(item) {
  const pair = (label, value) => h("span", {}, h("span", { class: "muted" }, `${label} `), value);
  if (item.error) return [h("span", { class: "bad-text" }, String(item.error.title))];
  if (!item.metrics) return [h("span", { class: "muted" }, sourceName(item.target))];
  const { metrics } = item;
  const kind = Object.keys(SHORT).find((name) => name in metrics);
  const found = Object.entries(SHORT[kind] ?? {}).map(([name, label]) => pair(label, measure(metrics[name])));
  if (metrics.reached === true) found.push(h("span", { class: "good-text" }, `✓ after ${steps(metrics)}`));
  if (metrics.reached === false) found.push(h("span", { class: "bad-text" }, `✗ not in ${steps(metrics)}`));
  if (metrics.judge_agrees === true) found.push(h("span", { class: "good-text" }, "✓ judge agrees"));
  if (metrics.judge_agrees === false)
    found.push(h("span", { class: "bad-text" }, `✗ judge: ${metrics.judge_prediction}`));
  return found;
}

export class ItemGrid {
  constructor(ref, jobId) {
    this.ref = ref;
    this.jobId = jobId;
    this.cards = new Map();
    this.pages = [{ cursor: null, settled: false }];
    this.polls = 0;
    this.changed = changes();
    this.detail = new Detail(() => this.select(null));
    ref.more.addEventListener("click", () => this.loadMore());
    setText(ref["items-note"], "Loading items…");
  }

  /** Ask for those pages that still move, if the job's counts say that something did. */
  async refresh(job, signal) {
    const anyway = this.polls % ANYWAY === 0;
    this.polls += 1;
    this.total = job.items.total;
    const changed = this.changed([job.state, job.items]);
    if (!changed && !anyway && !this.owing) return;
    this.owing = true;
    for (const page of this.pages.filter((each) => !each.settled)) await this.load(page, signal);
    this.owing = false;
  }

  async load(page, signal) {
    const { items, next_cursor: next } = await listItems(this.jobId, { limit: PAGE, cursor: page.cursor }, signal);
    const first = page.next === undefined;
    page.next = next;
    page.settled = items.length > 0 && items.every((item) => isFinal(item.state));
    for (const item of items) this.take(item);
    if (items.length > 0) this.ref.grid.dataset.pictures = String(views(items[0]).length);
    arrange(this.ref.grid, this.nodes());
    this.ref.more.hidden = !this.pages.at(-1).next;
    setText(this.ref["items-note"], this.cards.size ? "" : "No items yet.");
    setText(this.ref.shown, this.cards.size < this.total ? `${count(this.cards.size)} of ${count(this.total)}` : "");
    if (first) this.selectFromAddress();
  }

  take(item) {
    const card = this.cards.get(item.index);
    if (!card) this.cards.set(item.index, new Card(item, () => this.toggle(item.index)));
    else if (card.update(item) && item.index === this.selected) this.detail.show(item);
  }

  nodes() {
    const ordered = [...this.cards.values()].sort((a, b) => a.item.index - b.item.index);
    return ordered.flatMap((card) => (card.item.index === this.selected ? [card.node, this.detail.node] : [card.node]));
  }

  async loadMore() {
    this.ref.more.disabled = true;
    const page = { cursor: this.pages.at(-1).next, settled: false };
    try {
      await this.load(page);
      this.pages.push(page);
      this.ref.more.hidden = !page.next;
      announce(`${plural(this.cards.size, "item")} shown`);
    } catch (error) {
      this.ref["items-note"].replaceChildren(refusal(error));
    } finally {
      this.ref.more.disabled = false;
    }
  }

  selectFromAddress() {
    const index = /^#item-(\d+)$/.exec(window.location.hash)?.[1];
    if (index === undefined || this.selected !== undefined || !this.cards.has(Number(index))) return;
    this.select(Number(index));
    this.cards.get(Number(index)).node.scrollIntoView({ block: "start" });
  }

  toggle(index) {
    this.select(index === this.selected ? null : index);
    if (this.selected !== null) this.detail.node.scrollIntoView({ block: "nearest" });
  }

  /** Open the detail under item `index`; null closes it and gives the focus back to the card. */
  select(index) {
    const before = this.cards.get(this.selected);
    const card = this.cards.get(index);
    this.selected = index;
    if (before) setAttribute(before.open, "aria-expanded", "false");
    if (card) {
      setAttribute(card.open, "aria-expanded", "true");
      this.detail.show(card.item);
    } else before?.open.focus();
    arrange(this.ref.grid, this.nodes());
    window.history.replaceState(null, "", card ? `#item-${index}` : window.location.pathname);
  }
}
