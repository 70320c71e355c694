// All pairs of two jobs at once: what their metrics come to, and their order by how much these differ.

import { changes, h } from "./dom.js";
import { METRICS } from "./facts.js";
import { count, isSettled, measure, plural } from "./format.js";
import { metricLabel } from "./order.js";
import { allItems, paired } from "./partners.js";
import { wideTable } from "./tables.js";
import { holds } from "./where.js";

/** Pairs that are looked through; what is summed up is of the first so many items of each job. */
const MOST = 2000;
/** Milliseconds between two looks at jobs that go on. */
const EVERY_MS = 10_000;
const PREFIX = "difference:";

export const numeric = (item, name) => (typeof item?.metrics?.[name] === "number" ? item.metrics[name] : undefined);
export const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : "±"}${measure(Math.abs(value))}`;

function median(values) {
  const ordered = values.toSorted((a, b) => a - b);
  const half = Math.floor(ordered.length / 2);
  return ordered.length % 2 ? ordered[half] : (ordered[half - 1] + ordered[half]) / 2;
}

/** The values of a metric in both items of the pairs that have it in both. */
function valuesOf(pairs, name) {
  const values = pairs.map((pair) => pair.map((item) => numeric(item, name)));
  return values.filter(([a, b]) => a !== undefined && b !== undefined);
}

/** As `Pages` are, of pairs that are all here: in the order of how much more of a metric the second has. */
class Listed {
  constructor(pairs, name, { state, order, metric }, took) {
    const more = ([a, b]) => (order === "desc" ? -1 : 1) * (numeric(b, name) - numeric(a, name));
    const wanted = ([a]) => (!state.length || state.includes(a.state)) && metric.every((each) => holds(a, each));
    this.pairs = pairs.filter((pair) => !Number.isNaN(more(pair)) && wanted(pair)).toSorted((a, b) => more(a) - more(b) || a[0].index - b[0].index);
    Object.assign(this, { took, total: this.pairs.length, plain: false, told: 0 });
  }

  at(position) {
    return this.pairs[position]?.[0];
  }

  partners(first, items) {
    return items.map((_, i) => this.pairs[first + i][1]);
  }

  again() {}

  /** All before `end` are told of, once. */
  async want(_, end) {
    const first = this.told;
    if (first && first >= Math.min(end, this.total)) return;
    this.told = Math.max(end, 1);
    await this.took(first, this.pairs.slice(first, this.told).map(([item]) => item));
  }
}

export class Pairing {
  /** `names` are what the two jobs, of these ids, are called; `changed()` is called as there are other pairs. */
  constructor(ids, names, changed) {
    Object.assign(this, { ids, names, changed, pairs: [], at: -Infinity, news: changes() });
    this.node = h("section", { class: "summed", "aria-label": "Summary" });
  }

  /** Read both jobs again if their counts say that something changed, and not too often. */
  async refresh(jobs, signal) {
    const over = jobs.every(({ items }) => items.running + items.queued === 0);
    const now = JSON.stringify(jobs.map(({ items }) => items));
    if (now === this.was || (!over && performance.now() - this.at < EVERY_MS)) return;
    this.at = performance.now();
    const lists = await Promise.all(this.ids.map((id) => allItems(id, MOST, signal)));
    this.was = now;
    this.part = jobs.some(({ items }) => items.total > MOST);
    this.pairs = paired(...lists);
    this.draw();
    this.changed();
  }

  /** The metrics that some pair has in both. */
  get metrics() {
    return Object.keys(METRICS).filter((name) => valuesOf(this.pairs, name).length > 0);
  }

  /** What items can be sorted by beside what the API sorts them by. */
  get orders() {
    return this.metrics.map((name) => [PREFIX + name, `difference: ${metricLabel(name)}`]);
  }

  /** The items in the order that is asked for, or undefined if that is none of ours. */
  pages(order, took) {
    return order.sort.startsWith(PREFIX) ? new Listed(this.pairs, order.sort.slice(PREFIX.length), order, took) : undefined;
  }

  draw() {
    const whole = this.pairs.filter((pair) => pair.every((item) => item && isSettled(item)));
    const rows = this.metrics.map((name) => this.row(name));
    if (!this.news([whole.length, rows.map((cells) => cells.join())])) return;
    const of = this.part ? `of the first ${count(MOST)} items of each job` : "";
    const title = h("h2", {}, "All pairs ", h("small", {}, [plural(whole.length, "pair"), of].filter(Boolean).join(" ")));
    const [a, b] = this.names;
    const heads = ["Median", a, b, "Difference", `${a} is lower`];
    this.node.replaceChildren(title, ...(rows.length ? [wideTable("Summary of all pairs", heads, rows)] : []));
  }

  row(name) {
    const values = valuesOf(this.pairs, name);
    const lower = values.filter(([a, b]) => a < b).length;
    const [a, b, by] = [([x]) => x, ([, y]) => y, ([x, y]) => y - x].map((of) => median(values.map(of)));
    return [metricLabel(name), measure(a), measure(b), signed(by), `in ${count(lower)} of ${count(values.length)}`];
  }
}
