// Which item of another job belongs to an item: the one for the same target, and from the same start where there is a
// choice. Jobs for the same images have it at the same place, so the others are looked through only where that fails.

import { getItem, listItems, Refused } from "./api.js";
import { count } from "./format.js";

const MOST = 10_000;
const PAGE = 500;

const without = (source, ...names) => Object.fromEntries(Object.entries(source).filter(([name]) => !names.includes(name)));

/** What an item is of, whatever it is called and wherever it stands in its job. */
function keysOf({ target, start, settings }) {
  const aim = [without(target, "label", "resized"), settings.eps ?? null, settings.lambda ?? null];
  return [JSON.stringify([...aim, without(start, "label", "resized")]), JSON.stringify(aim)];
}

const same = (a, b) => b !== undefined && keysOf(a)[1] === keysOf(b)[1];

/** A job's items, up to `most`. */
export async function allItems(jobId, most, signal) {
  const found = [];
  while (found.length < most) {
    const limit = Math.min(PAGE, most - found.length);
    const { items } = await listItems(jobId, { offset: found.length, limit }, signal);
    found.push(...items);
    if (items.length < limit) break;
  }
  return found;
}

/** What some items are of: the first of them by each of their keys. */
function byKeys(items) {
  const found = new Map();
  for (const item of items) for (const key of keysOf(item)) if (!found.has(key)) found.set(key, item);
  return found;
}

const partnerIn = (found, item) => keysOf(item).map((key) => found.get(key)).find((each) => each !== undefined);

/** Each of `items` with its partner among `others`, where there is one. */
export function paired(items, others) {
  const found = byKeys(others);
  const partner = (item) => (same(item, others[item.index]) ? others[item.index] : partnerIn(found, item));
  return items.map((item) => [item, partner(item)]).filter(([, other]) => other);
}

export class Partners {
  constructor(jobId) {
    this.jobId = jobId;
    this.none = "The other job has no item for this.";
  }

  /** The job as it is now: what was looked through while it was planned is not all of it. */
  know({ state, items }) {
    if (state === "validating" || items.total !== this.total) this.scanned = undefined;
    this.total = items.total;
    if (items.total > MOST) this.none = `Not found among the first ${count(MOST)} items of the other job.`;
  }

  /** The other job's items for these, each or undefined. */
  async of(items) {
    const there = await this.atPlaces(items.map(({ index }) => index));
    if (items.every((item, i) => same(item, there[i]))) return there;
    this.scanned ??= allItems(this.jobId, MOST).then(byKeys).catch((error) => {
      this.scanned = undefined;
      throw error;
    });
    const found = await this.scanned;
    const elsewhere = items.map((item, i) => (same(item, there[i]) ? item.index : partnerIn(found, item)?.index));
    return this.atPlaces(elsewhere);
  }

  /** A run of items is one request. */
  async atPlaces(indices) {
    const run = indices.every((index, i) => index === indices[0] + i);
    if (!run) return Promise.all(indices.map((index) => (index === undefined ? undefined : this.one(index))));
    if (indices.length === 0) return [];
    const { items } = await listItems(this.jobId, { offset: indices[0], limit: indices.length });
    const byIndex = new Map(items.map((item) => [item.index, item]));
    return indices.map((index) => byIndex.get(index));
  }

  async one(index) {
    try {
      return await getItem(this.jobId, index);
    } catch (error) {
      if (error instanceof Refused && error.status === 404) return undefined;
      throw error;
    }
  }
}
