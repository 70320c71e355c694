// A study's page: its grid of items and, above it, what makes the study: a sweep's chart, strips, a gallery, a wipe.

import { listItems } from "./api.js";
import { Coordinates } from "./coordinates.js";
import { h } from "./dom.js";
import { count, finished, isSettled } from "./format.js";
import { ItemGrid } from "./items.js";
import { Manipulations } from "./manipulation.js";
import { Strips } from "./strips.js";
import { Sweep } from "./sweep.js";

/** A panel has a `node`, and shows `parts`, each a `name`, a `job` and its `items`. */
const PANELS = {
  radius_sweep: Sweep,
  interpolation: Strips,
  feature_visualization: Coordinates,
  feature_manipulation: Manipulations,
};
const PAGE = 500;
/** Items of a job that its panel shows; the grid has all. */
const MOST = 1000;

/** The first items of a job; pages whose items are all over are not asked for again. */
class Items {
  constructor(id) {
    this.id = id;
    this.pages = [];
  }

  get all() {
    return this.pages.flatMap(({ items }) => items);
  }

  /** Ask for what may have changed since the last time. */
  async refresh(job, signal) {
    const now = JSON.stringify([job.state, job.items]);
    if (now === this.was) return;
    const over = finished(job.items);
    if (over < this.over) for (const page of this.pages) page.settled = false;
    this.over = over;
    for (let i = 0; i * PAGE < Math.min(MOST, job.items.total); i += 1) {
      if (this.pages[i]?.settled) continue;
      const cursor = i ? this.pages[i - 1].next_cursor : null;
      const page = await listItems(this.id, { limit: PAGE, cursor }, signal);
      this.pages[i] = { ...page, settled: page.items.length > 0 && page.items.every(isSettled) };
      if (!page.next_cursor) break;
    }
    this.was = now;
  }
}

/** The panels over some jobs, one for each kind of study that has one. `parts` are pairs of a name and a job. */
export class Panels {
  constructor(place) {
    this.place = place;
    this.limit = h("p", { class: "muted", hidden: true }, `Of the first ${count(MOST)} items of each job.`);
    this.panels = new Map();
    this.items = new Map();
  }

  async refresh(parts, signal) {
    const found = parts.filter(([, { kind }]) => kind in PANELS);
    const now = JSON.stringify(found.map(([name, job]) => [name, job.state, job.items]));
    if (now === this.was) return;
    const loaded = [];
    for (const [name, job] of found) {
      if (!this.items.has(job.id)) this.items.set(job.id, new Items(job.id));
      await this.items.get(job.id).refresh(job, signal);
      loaded.push({ name, job, items: this.items.get(job.id).all });
    }
    this.was = now;
    this.limit.hidden = found.every(([, { items }]) => items.total <= MOST);
    for (const kind of new Set(loaded.map(({ job }) => job.kind)))
      this.show(kind, loaded.filter(({ job }) => job.kind === kind));
  }

  show(kind, parts) {
    if (parts.every(({ items }) => items.length === 0)) return;
    if (!this.panels.has(kind)) {
      this.panels.set(kind, new PANELS[kind]());
      this.place.append(this.limit, this.panels.get(kind).node);
    }
    this.panels.get(kind).show(parts);
  }
}

/** What the page of a job of one study holds. */
export class Study {
  constructor(ref, id) {
    this.grid = new ItemGrid(ref, id);
    const place = h("div", { class: "items study" });
    ref.content.prepend(place);
    this.panels = new Panels(place);
  }

  async refresh(job, signal) {
    await this.grid.refresh(job, signal);
    await this.panels.refresh([[job.model ?? "result", job]], signal);
  }
}
