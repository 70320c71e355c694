// A grid of a job's items with the controls of its order: what the page of one job and that of two have in common.

import { Refused, Unreachable } from "./api.js";
import { h, setText } from "./dom.js";
import { finished } from "./format.js";
import { OrderBar } from "./order.js";
import { Pages } from "./pages.js";
import { hideBanner, refusal, showBanner } from "./ui.js";
import { VirtualGrid } from "./virtual.js";

/** Milliseconds for which the scrolling has to pause before items are asked for. */
const PAUSE_MS = 40;

export class Gallery {
  /** `card(position)` makes the card of a place: its `node`, and `drop()`. `took(first, items)` hears of each page, and may be awaited. `pages(order, took)` answers those of an order that is not the API's. */
  constructor(jobId, { card, took, pages = () => undefined }) {
    Object.assign(this, { jobId, card, took, ordered: pages });
    this.cards = new Map(); // by position
    this.note = h("div", { class: "loading" }, "Loading items…");
    this.bar = new OrderBar(() => this.start());
    this.list = h("ul", { class: "grid", "aria-label": "Items" });
    this.grid = new VirtualGrid(this.list, "Items", this.bar.node, {
      make: (position) => this.make(position),
      drop: (position) => this.drop(position),
      seen: (first, end) => this.look(first, end),
    });
    this.nodes = [this.bar.node, this.grid.node, this.note];
    this.begin();
  }

  begin() {
    // An answer in the order before may come after those in this one.
    const took = (first, items) => pages === this.pages && this.take(first, items);
    const pages = this.ordered(this.bar.order, took) ?? new Pages(this.jobId, this.bar.order, took);
    this.pages = pages;
  }

  /** Another order: all anew, from the top. */
  start() {
    this.begin();
    setText(this.note, "");
    this.grid.begin(this.pages.plain ? (this.job?.items.total ?? 0) : 0);
  }

  /** The job as it is now. */
  show(job) {
    if (this.job && finished(job.items) < finished(this.job.items)) this.pages.again(true); // some are tried again
    this.job = job;
    const { plain, total } = this.pages;
    const matching = plain ? job.items.total : total;
    if (matching !== null) this.grid.resize(matching);
    this.bar.show(job.items, plain ? null : matching);
    if (matching === 0) setText(this.note, plain ? "No items yet." : "No item is like that.");
  }

  /** Ask again for what is seen and may have changed, or for `all`; what is not seen, once it is. */
  async refresh(all = false) {
    this.pages.again(all);
    try {
      await this.pages.want(...this.grid.range);
    } catch (error) {
      if (!(error instanceof Refused && error.status === 422)) throw error;
      this.failed(error); // an order that the API does not have: another may be chosen
    }
  }

  look(first, end) {
    clearTimeout(this.looking);
    const { pages } = this;
    const asked = () => pages === this.pages && pages.want(first, end).then(this.recovered, (error) => this.failed(error));
    this.looking = setTimeout(asked, PAUSE_MS);
  }

  recovered = () => {
    if (this.away) hideBanner();
    this.away = false;
  };

  failed(error) {
    if (!(error instanceof Unreachable)) return this.note.replaceChildren(refusal(error));
    this.away = true;
    return showBanner(error.message, () => this.look(...this.grid.range));
  }

  make(position) {
    const card = this.card(position);
    this.cards.set(position, card);
    return card.node;
  }

  drop(position) {
    this.cards.get(position).drop();
    this.cards.delete(position);
  }

  take(first, items) {
    setText(this.note, "");
    if (this.job) this.show(this.job);
    for (const item of items) this.bar.offer(item);
    return this.took(first, items);
  }

  /** So many pictures stand on a card. */
  layout(pictures) {
    if (!pictures || this.list.dataset.pictures === String(pictures)) return;
    this.list.dataset.pictures = String(pictures);
    this.grid.fit();
  }

  /** "3 of 50", as a reader counts. */
  place(position) {
    return `${position + 1} of ${this.grid.count}`;
  }

  /** Scroll to a place and have its item. Answers undefined if there is none. */
  async reach(position) {
    if (position < 0 || position >= this.grid.count) return undefined;
    this.grid.reveal(position);
    await this.pages.want(...this.grid.range);
    return this.pages.at(position);
  }
}
