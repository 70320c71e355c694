// The failed items of a job by cause, most frequent first.

import { listFailures } from "./api.js";
import { h } from "./dom.js";
import { jobUrl } from "./facts.js";
import { count, plural } from "./format.js";
import { dataTable, small } from "./tables.js";

const HEADS = ["Cause", "Items", "Such as"];

export class Failures {
  constructor(place, id) {
    this.place = place;
    this.id = id;
  }

  async refresh(job, signal) {
    const { failed } = job.items;
    if (failed === this.shown) return;
    const { failures } = await listFailures(this.id, signal);
    const total = failures.reduce((sum, each) => sum + each.count, 0);
    const rows = failures.map((each) => this.row(each));
    this.place.replaceChildren(
      rows.length
        ? dataTable(`${plural(total, "failed item")} by cause`, HEADS, rows)
        : h("p", { class: "loading" }, "Nothing has failed."),
    );
    this.shown = failed;
  }

  /** Items are named by links, and all with the same cause are one filter of the grid. */
  row({ title, detail, count: number, items }) {
    const page = jobUrl(this.id);
    const links = items.flatMap((index) => [h("a", { href: `${page}#item-${index}` }, `#${index}`), " "]);
    const same = new URLSearchParams({ state: "failed", ...(title !== null && { error: title }) });
    const all = h("a", { href: `${page}?${same}` }, "show them");
    return [
      [h("span", { class: "bad-text" }, title ?? "no title"), small(detail ?? "")],
      [h("span", { class: "value" }, count(number)), " ", all],
      h("span", { class: "indices" }, ...links),
    ];
  }
}
