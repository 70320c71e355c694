// A job's items in some order, a page at a time, by how many rows to skip. One request at a time: what is no longer
// seen when its turn comes is not asked for.

import { listItems } from "./api.js";
import { isSettled } from "./format.js";

const SIZE = 50;
/** Pages that are remembered. */
const MOST = 60;

export class Pages {
  /** `query` has the API's state, error, sort and order; `took(first, items)` is awaited for each page that came. */
  constructor(jobId, query, took) {
    Object.assign(this, { jobId, query, took });
    this.plain = Object.values(query).every((value) => !value?.length);
    this.pages = new Map();
    this.range = [0, SIZE];
    this.total = null; // how many match, once an answer has said so
    this.calls = 0; // of again()
  }

  at(position) {
    return this.pages.get(Math.floor(position / SIZE))?.items[position % SIZE];
  }

  /** Have the items from `first` to before `end`; those wanted before and not asked for yet are forgotten. */
  want(first, end) {
    this.range = [first, Math.max(end, first + 1)];
    this.pumping ??= this.pump().finally(() => {
      this.pumping = undefined;
    });
    return this.pumping;
  }

  /** Ask again for whatever may have changed, or for all, each page when it is wanted. */
  again(all = false) {
    this.calls += 1;
    for (const page of this.pages.values()) page.stale ||= all || !page.settled;
  }

  async pump() {
    for (let number = this.missing(); number !== undefined; number = this.missing()) await this.load(number);
  }

  missing() {
    const [first, end] = this.range;
    const last = Math.floor((Math.min(end, this.total ?? end) - 1) / SIZE);
    for (let number = Math.floor(first / SIZE); number <= last || number === 0; number += 1) {
      const page = this.pages.get(number);
      if (!page || page.stale) return number;
    }
    return undefined;
  }

  async load(number) {
    const { calls, plain } = this;
    const asked = { limit: SIZE, offset: number * SIZE, counted: plain ? undefined : true, ...this.query };
    const { items, total } = await listItems(this.jobId, asked);
    if (!plain) this.total = total;
    await this.took(number * SIZE, items);
    const settled = plain && items.length === SIZE && items.every(isSettled);
    this.pages.delete(number); // the newest is last
    this.pages.set(number, { items, settled, stale: calls !== this.calls }); // the answer may be from before the last call
    for (const old of this.pages.keys()) {
      if (this.pages.size <= MOST) break;
      this.pages.delete(old);
    }
  }
}
