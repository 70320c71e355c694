// The first results of a job, small, in its row of the list. They are asked for once the row is in sight, and again when
// more items have succeeded, until there are enough.

import { listItems } from "./api.js";
import { h } from "./dom.js";
import { artifact, smoothed } from "./picture.js";

const MOST = 4;
const FILE = "result.png";
/** Kinds whose items are pictures. */
const DRAWN = ["inversion", "radius_sweep", "interpolation", "feature_visualization", "feature_manipulation"];

const image = (src) => smoothed(h("img", { src, alt: "", decoding: "async" }));

const shown = new WeakMap();
const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) shown.get(target).inSight(isIntersecting);
});

export class Thumbs {
  constructor() {
    this.node = h("span", { class: "thumbs" });
    this.seen = false;
    this.known = 0; // how many items had succeeded when they were last asked for
    shown.set(this.node, this);
    sight.observe(this.node);
  }

  inSight(seen) {
    this.seen = seen;
    this.load();
  }

  update(job) {
    this.job = job;
    this.load();
  }

  async load() {
    const { job, node } = this;
    if (!this.seen || !job || this.busy || !DRAWN.includes(job.kind)) return;
    const succeeded = job.items.succeeded;
    if (succeeded === this.known || node.childElementCount === MOST) return;
    this.busy = true;
    try {
      const { items } = await listItems(job.id, { limit: MOST });
      const urls = items.map((item) => artifact(item, FILE)?.url).filter(Boolean);
      node.replaceChildren(...urls.map(image));
      this.known = succeeded;
    } catch {
      // the next answer of the list tries again, and says so if the API is away
    } finally {
      this.busy = false;
    }
  }
}
