// The grid of items: the pictures of each, sorted and filtered by the page's address; one is opened to be looked at.

import { getItem, Unreachable } from "./api.js";
import { Card } from "./card.js";
import { askOther } from "./compare.js";
import { Detail } from "./detail.js";
import { changes, h, setText } from "./dom.js";
import { isFinal } from "./format.js";
import { OrderBar } from "./order.js";
import { Pages } from "./pages.js";
import { views } from "./picture.js";
import { hideBanner, refusal, showBanner } from "./ui.js";
import { VirtualGrid } from "./virtual.js";

/** Every this many polls ask for the items even when no count has changed: pictures may come before the state does. */
const ANYWAY = 5;

export class ItemGrid {
  constructor(ref, jobId) {
    Object.assign(this, { note: ref["items-note"], jobId, polls: 0 });
    this.cards = new Map(); // by position
    this.chosen = new Map(); // by index
    this.changed = changes();
    this.bar = new OrderBar(() => this.start());
    this.list = h("ul", { class: "grid", "aria-label": "Items" });
    this.grid = new VirtualGrid(this.list, "Items", {
      make: (position) => this.card(position),
      drop: (position) => this.drop(position),
      seen: (first, end) => this.look(first, end),
    });
    this.detail = new Detail({ step: (by) => this.step(by), closed: () => this.closed() });
    this.bar.node.append(h("button", { type: "button", class: "push", onclick: () => askOther(this.job) }, "Compare with…"));
    ref.grid.replaceChildren(this.bar.node, this.grid.node);
    window.addEventListener("hashchange", () => this.openFromAddress());
    setText(this.note, "Loading items…");
    this.begin();
  }

  begin() {
    this.pages = new Pages(this.jobId, this.bar.order, (first, items) => this.took(first, items));
    this.pages.over = this.job !== undefined && isFinal(this.job.state);
  }

  /** Another order: all anew, from the top. */
  start() {
    this.begin();
    this.grid.clear();
    this.grid.resize(this.pages.plain ? (this.job?.items.total ?? 0) : 0);
    this.look(0, 1);
  }

  /** Ask for what is seen and still moves, if the job's counts say that something did, or pictures emerge. */
  async refresh(job, signal) {
    const anyway = this.polls % ANYWAY === 0;
    this.polls += 1;
    this.job = job;
    this.pages.over = isFinal(job.state);
    this.showCounts();
    const changed = this.changed([job.state, job.items]);
    if (!changed && !anyway && !this.owing && !this.emerging) return;
    this.owing = true;
    this.pages.again();
    await this.pages.want(...this.grid.range);
    this.owing = false;
    if (!signal.aborted && !this.opened) this.openFromAddress();
    this.opened = true;
  }

  get emerging() {
    return [...this.cards.values()].some(({ item }) => item?.state === "running");
  }

  showCounts() {
    const { plain, total } = this.pages;
    const shown = plain ? this.job.items.total : total;
    if (shown !== null) this.grid.resize(shown);
    this.bar.show(this.job.items, plain ? null : shown);
    const none = plain ? "No items yet." : "No item is like that.";
    setText(this.note, shown === 0 ? none : "");
  }

  /** Have the items of the places that are seen, once the scrolling pauses. */
  look(first, end) {
    clearTimeout(this.looking);
    this.looking = setTimeout(() => {
      const { pages } = this;
      pages.want(first, end).then(
        () => this.recovered(),
        (error) => pages === this.pages && this.failed(error),
      );
    }, 40);
  }

  recovered() {
    if (this.away) hideBanner();
    this.away = false;
  }

  failed(error) {
    if (!(error instanceof Unreachable)) return this.note.replaceChildren(refusal(error));
    this.away = true;
    showBanner(error.message, () => this.look(...this.grid.range));
  }

  card(position) {
    const item = () => this.cards.get(position).item;
    const card = new Card({
      open: () => item() && this.open(item(), position),
      choose: (chosen) => this.choose(item(), chosen),
    });
    this.cards.set(position, card);
    const known = this.pages.at(position);
    if (known) card.show(known, this.chosen.has(known.index));
    return card.node;
  }

  drop(position) {
    this.cards.get(position).drop();
    this.cards.delete(position);
  }

  took(first, items) {
    if (this.job) this.showCounts();
    for (const [i, item] of items.entries()) {
      this.bar.offer(item);
      if (this.chosen.has(item.index)) this.chosen.set(item.index, item);
      if (item.index === this.detail.item?.index) this.detail.show(item);
      this.cards.get(first + i)?.show(item, this.chosen.has(item.index));
    }
    const most = Math.max(0, ...items.map((item) => views(item).length));
    if (most && this.list.dataset.pictures !== String(most)) {
      this.list.dataset.pictures = String(most);
      this.grid.fit();
    }
  }

  /** Items that are chosen are told to whoever listens, as a `chosen` event with the items in the order chosen. */
  choose(item, chosen) {
    if (chosen) this.chosen.set(item.index, item);
    else this.chosen.delete(item.index);
    this.grid.node.dispatchEvent(new CustomEvent("chosen", { bubbles: true, detail: [...this.chosen.values()] }));
  }

  async openFromAddress() {
    const index = Number(/^#item-(\d+)$/.exec(window.location.hash)?.[1] ?? Number.NaN);
    if (Number.isNaN(index) || index === this.detail.item?.index) return;
    const position = this.pages.plain ? index : null;
    if (position !== null) this.grid.reveal(position);
    try {
      const known = position === null ? undefined : this.pages.at(position);
      this.open(known ?? (await getItem(this.jobId, index)), position);
    } catch (error) {
      this.failed(error);
    }
  }

  /** `position` is null for an item that need not be among those shown. */
  open(item, position) {
    this.position = position;
    const place = position === null ? "" : `${position + 1} of ${this.grid.count}`;
    this.detail.show(item, place);
    window.history.replaceState(null, "", `#item-${item.index}`);
  }

  /** Go to the next item, or the one before. */
  async step(by) {
    const to = (this.position ?? -1) + by;
    if (this.position === null || to < 0 || to >= this.grid.count) return;
    this.position = to;
    this.grid.reveal(to);
    try {
      await this.pages.want(...this.grid.range);
      const item = this.pages.at(to);
      if (item && this.position === to && this.detail.item) this.open(item, to);
    } catch (error) {
      this.failed(error);
    }
  }

  closed() {
    const { pathname, search } = window.location;
    window.history.replaceState(null, "", pathname + search);
    if (this.position !== null) this.grid.focus(this.position);
  }
}
