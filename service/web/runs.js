// What a job over a data set's images has in place of items: its runs of images and, at the end, what they come to.

import { getItem, listItems } from "./api.js";
import { h, setText } from "./dom.js";
import { files } from "./files.js";
import { count, isFinal, plural } from "./format.js";
import { note } from "./ui.js";

/** Items that are looked through for failures; failures that are told; files that need no folding. */
const MOST = 500;
const NAMED = 5;
const FEW = 12;

export class Runs {
  /** `draw(job, item, signal)` makes the nodes that show the job's last item, which puts the runs together. */
  constructor(place, draw) {
    this.draw = draw;
    this.failures = h("div");
    this.waiting = h("p", { class: "loading" });
    this.found = h("div", { class: "items" });
    place.replaceChildren(this.failures, this.waiting, this.found);
  }

  async refresh(job, signal) {
    const { total, succeeded, failed } = job.items;
    const over = isFinal(job.state);
    setText(this.waiting, over ? "" : `${count(succeeded + failed)} of ${plural(total - 1, "run")} of images done.`);
    if (failed > 0 && failed !== this.failed) await this.showFailures(job, signal);
    this.failed = failed;
    // What was chosen and unfolded in it stays: it is drawn once for each end of the job.
    if (!over || job.finished_at === this.drawn) return;
    await this.show(job, await getItem(job.id, total - 1, signal), signal);
    this.drawn = job.finished_at;
  }

  async showFailures(job, signal) {
    const { items } = await listItems(job.id, { limit: MOST }, signal);
    const failed = items.filter(({ error, target }) => error && target.source === "run");
    if (failed.length === 0) return;
    const line = ({ target, error }) => `${target.label}: ${error.title}. ${error.detail ?? ""}`;
    const lines = failed.slice(0, NAMED).map(line);
    if (failed.length > NAMED) lines.push("…");
    this.failures.replaceChildren(note("bad", `${plural(failed.length, "run")} failed`, ...lines));
  }

  async show(job, item, signal) {
    if (item.error) this.found.replaceChildren(note("bad", String(item.error.title), item.error.detail ?? ""));
    if (item.state !== "succeeded") return;
    const downloads = h(
      "details",
      { open: item.artifacts.length <= FEW },
      h("summary", {}, "Files"),
      h("ul", { class: "files" }, ...files(item)),
    );
    this.found.replaceChildren(...(await this.draw(job, item, signal)), downloads);
  }
}
