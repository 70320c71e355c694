// The grid of a job's items: the pictures of each; one is opened to be looked at, some are chosen to be compared.

import { getItem } from "./api.js";
import { Card } from "./card.js";
import { Detail } from "./detail.js";
import { changes, h } from "./dom.js";
import { plural } from "./format.js";
import { Gallery } from "./gallery.js";
import { askOther } from "./others.js";
import { views } from "./picture.js";

/** Every this many polls ask for the items even when no count has changed: pictures may come before the state does. */
const ANYWAY = 5;
/** As many as one chart shows. */
const MOST_CURVES = 8;

export class ItemGrid {
  constructor(ref, jobId) {
    Object.assign(this, { jobId, polls: 0, position: null });
    this.chosen = new Set(); // indices
    this.changed = changes();
    this.gallery = new Gallery(jobId, {
      card: (position) => this.card(position),
      took: (first, items) => this.took(first, items),
    });
    this.live = { job: null, points: new Map() };
    this.detail = new Detail({ step: (by) => this.step(by), closed: () => this.closed(), live: this.live });
    this.picked = h("span", { class: "buttons picked" });
    const compare = h("button", { type: "button", class: "push", onclick: () => askOther(this.job) }, "Compare with…");
    this.gallery.bar.node.append(this.picked, compare);
    ref.grid.replaceChildren(...this.gallery.nodes);
    window.addEventListener("hashchange", () => this.openFromAddress());
  }

  /** Ask for what is seen and still moves, if the job's counts say that something did, or pictures emerge. */
  async refresh(job, signal) {
    const anyway = this.polls % ANYWAY === 0;
    this.polls += 1;
    this.job = this.live.job = job;
    this.gallery.show(job);
    const changed = this.changed([job.state, job.items]);
    if (!changed && !anyway && !this.owing && !this.emerging) return;
    this.owing = true;
    await this.gallery.refresh();
    this.owing = false;
    if (!signal.aborted && !this.opened) this.openFromAddress();
    this.opened = true;
  }

  get emerging() {
    return [...this.gallery.cards.values()].some(({ item }) => item?.state === "running");
  }

  card(position) {
    const card = new Card({
      open: () => card.item && this.open(card.item, position),
      choose: (chosen) => this.choose(card.item, chosen),
    });
    const known = this.gallery.pages.at(position);
    if (known) card.show(known, this.chosen.has(known.index));
    return card;
  }

  took(first, items) {
    for (const [i, item] of items.entries()) {
      this.note(item);
      if (item.index === this.detail.item?.index) this.detail.show(item);
      this.gallery.cards.get(first + i)?.show(item, this.chosen.has(item.index));
    }
    this.gallery.layout(Math.max(0, ...items.map((item) => views(item).length)));
  }

  /** A search is seen now and then; what was seen of it so far is its curve while it runs. */
  note({ index, preview, metrics }) {
    const { points } = this.live;
    if (metrics) points.delete(index);
    if ((preview?.value ?? null) === null) return;
    const before = (points.get(index) ?? []).filter(([step]) => step < preview.step);
    points.set(index, [...before, [preview.step, preview.value]]);
  }

  /** What is chosen leads to its curves; the address of that page names the items. */
  choose(item, chosen) {
    if (chosen) this.chosen.add(item.index);
    else this.chosen.delete(item.index);
    const some = [...this.chosen];
    const curves = `?${new URLSearchParams({ tab: "curves", curves: some.slice(0, MOST_CURVES) })}`;
    this.remember(some);
    const clear = h("button", { type: "button", onclick: () => this.clear() }, "Clear");
    const said = [`${plural(some.length, "item")} chosen`, h("a", { href: curves }, "Their curves"), clear];
    this.picked.replaceChildren(...(some.length ? said : []));
  }

  /** For the page of curves, which is opened beside this one. */
  remember(indices) {
    const url = new URL(window.location.href);
    if (indices.length) url.searchParams.set("curves", indices.slice(0, MOST_CURVES));
    else url.searchParams.delete("curves");
    window.history.replaceState(window.history.state, "", url);
  }

  clear() {
    this.chosen.clear();
    this.remember([]);
    this.picked.replaceChildren();
    for (const card of this.gallery.cards.values()) card.box.checked = false;
  }

  async openFromAddress() {
    const index = Number(/^#item-(\d+)$/.exec(window.location.hash)?.[1] ?? Number.NaN);
    if (Number.isNaN(index) || index === this.detail.item?.index) return;
    try {
      const position = this.gallery.pages.plain && index < this.gallery.grid.count ? index : null;
      const item = position === null ? await getItem(this.jobId, index) : await this.gallery.reach(position);
      if (item) this.open(item, position);
    } catch (error) {
      this.gallery.failed(error);
    }
  }

  /** `position` is null for an item that need not be among those shown. */
  open(item, position) {
    this.position = position;
    this.detail.show(item, position === null ? "" : this.gallery.place(position));
    window.history.replaceState(null, "", `#item-${item.index}`);
  }

  /** Go to the next item, or the one before. */
  async step(by) {
    if (this.position === null) return;
    const to = this.position + by;
    try {
      const item = await this.gallery.reach(to);
      if (item && this.detail.item) this.open(item, to);
    } catch (error) {
      this.gallery.failed(error);
    }
  }

  closed() {
    const { pathname, search } = window.location;
    window.history.replaceState(null, "", pathname + search);
    if (this.position !== null) this.gallery.grid.focus(this.position);
  }
}
