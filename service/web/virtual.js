// Nodes for any number of places in a page that scrolls: only the rows near what is seen exist. All rows are equally
// high, so where a place lies is arithmetic.

import { arrange, h } from "./dom.js";

/** Rows kept above and below what is seen. */
const BEYOND = 2;
/** Browsers give up on heights of some 17 million pixels; what is longer is shown a stretch at a time. */
const TALLEST = 12_000_000;

export class VirtualGrid {
  /**
   * `list` is a CSS grid with children of one height. `make(position)` answers the node of a place, `drop(position)`
   * hears that it is gone, and `seen(first, end)` which places there are now. `bar` stays on top of the page meanwhile.
   */
  constructor(list, label, bar, { make, drop, seen }) {
    Object.assign(this, { list, bar, make, drop, seen, count: 0, base: 0, columns: 1, row: 0 });
    this.range = [0, 0];
    this.nodes = new Map();
    this.earlier = h("button", { type: "button", hidden: true, onclick: () => this.turn(-1) }, "Earlier items");
    this.later = h("button", { type: "button", hidden: true, onclick: () => this.turn(1) }, "Later items");
    this.space = h("div", { class: "space" }, list);
    const inside = [this.earlier, this.space, this.later];
    this.node = h("div", { class: "window", tabindex: -1, role: "region", "aria-label": label }, ...inside);
    list.addEventListener("keydown", (event) => this.key(event));
    for (const type of ["scroll", "resize"]) window.addEventListener(type, () => this.visible && this.draw(), { passive: true });
    new ResizeObserver(() => this.fit()).observe(this.node);
  }

  get visible() {
    return this.list.clientWidth > 0;
  }

  /** How far the rows have gone up behind the bar, in pixels; negative while they begin below it. */
  get gone() {
    return this.bar.offsetHeight - this.space.getBoundingClientRect().top;
  }

  /** Pixels of the page below the bar. */
  get height() {
    return window.innerHeight - this.bar.offsetHeight;
  }

  /** Scroll the page so that so many pixels of the rows are behind the bar. */
  scroll(gone) {
    window.scrollBy({ top: gone - this.gone, behavior: "instant" });
  }

  /** How many places one stretch holds. */
  get stretch() {
    return Math.floor(TALLEST / (this.row || 1)) * this.columns;
  }

  resize(count) {
    if (count === this.count) return;
    this.count = count;
    for (const node of this.nodes.values()) node.setAttribute("aria-setsize", count);
    if (this.base >= count) this.base = 0;
    this.fit();
  }

  /** Forget all nodes and begin at the top of so many places. */
  begin(count) {
    for (const position of this.nodes.keys()) this.drop(position);
    this.nodes.clear();
    this.list.replaceChildren();
    Object.assign(this, { count, base: 0 });
    if (this.gone > 0) this.scroll(0);
    this.fit();
  }

  /** Measure anew; what was on top stays there. */
  fit() {
    if (!this.visible) return;
    const gone = this.gone > 0;
    const top = gone && this.row ? Math.round(this.gone / this.row) * this.columns : 0;
    const before = [this.columns, this.row];
    this.measure();
    this.draw();
    if (this.row === 0 && this.nodes.size > 0) {
      this.measure();
      this.draw();
    }
    if (gone && before[1] && (before[0] !== this.columns || before[1] !== this.row))
      this.scroll(Math.floor(top / this.columns) * this.row);
  }

  measure() {
    const style = getComputedStyle(this.list);
    const first = this.list.firstElementChild;
    this.columns = style.gridTemplateColumns.split(" ").length;
    if (first) this.row = first.getBoundingClientRect().height + (Number.parseFloat(style.rowGap) || 0);
  }

  draw() {
    const { columns } = this;
    const row = this.row || 200;
    const end = Math.min(this.count, this.base + (this.row ? this.stretch : columns));
    this.earlier.hidden = this.base === 0;
    this.later.hidden = !this.row || end === this.count;
    this.space.style.height = `${Math.ceil((end - this.base) / columns) * row}px`;
    const top = this.gone;
    const from = Math.max(0, Math.floor(top / row) - BEYOND);
    const to = Math.max(1, Math.ceil((top + this.height) / row) + BEYOND);
    this.range = [Math.min(end, this.base + from * columns), Math.min(end, this.base + to * columns)];
    this.list.style.transform = `translateY(${from * row}px)`;
    this.place();
  }

  place() {
    const [first, end] = this.range;
    for (const [position, node] of this.nodes)
      if (position < first || position >= end) {
        if (node.contains(document.activeElement)) this.node.focus({ preventScroll: true });
        this.nodes.delete(position);
        this.drop(position);
      }
    const shown = [];
    for (let position = first; position < end; position += 1) {
      if (!this.nodes.has(position)) this.nodes.set(position, this.made(position));
      shown.push(this.nodes.get(position));
    }
    arrange(this.list, shown);
    this.seen(first, end);
  }

  made(position) {
    const node = this.make(position);
    node.setAttribute("aria-posinset", position + 1);
    node.setAttribute("aria-setsize", this.count);
    node.dataset.position = position;
    return node;
  }

  turn(by) {
    this.base = Math.max(0, this.base + by * this.stretch);
    this.draw();
    this.scroll(by > 0 ? 0 : this.space.offsetHeight - this.height);
  }

  /** Scroll as little as is needed to show a place. */
  reveal(position) {
    if (!this.row || position >= this.count) return;
    if (position < this.base || position >= this.base + this.stretch)
      this.base = Math.floor(position / this.stretch) * this.stretch;
    this.draw();
    const top = Math.floor((position - this.base) / this.columns) * this.row;
    if (top < this.gone) this.scroll(top);
    else if (top + this.row > this.gone + this.height) this.scroll(top + this.row - this.height);
    this.draw();
  }

  /** Show a place and give its first button the focus. */
  focus(position) {
    this.reveal(position);
    this.nodes.get(position)?.querySelector("button")?.focus({ preventScroll: true });
  }

  key(event) {
    const from = Number(event.target.closest("[data-position]")?.dataset.position);
    if (event.target.tagName !== "BUTTON" || Number.isNaN(from) || event.altKey || event.ctrlKey || event.metaKey) return;
    const page = this.columns * Math.max(1, Math.floor(this.height / this.row));
    const to = {
      ArrowLeft: from - 1,
      ArrowRight: from + 1,
      ArrowUp: from - this.columns,
      ArrowDown: from + this.columns,
      PageUp: Math.max(from % this.columns, from - page),
      PageDown: Math.min(this.count - 1, from + page),
      Home: 0,
      End: this.count - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to < this.count) this.focus(to);
  }
}
