// One item, looked at closely: its pictures, its metrics, its curves and its files.

import { changes, h } from "./dom.js";
import { METRICS, metricRows, parameterRows } from "./facts.js";
import { files } from "./files.js";
import { count, isFinal, measure, stateLabel } from "./format.js";
import { Frames } from "./frames.js";
import { Lightbox } from "./lightbox.js";
import { animation, artifact, extremes, itemName, Pictures, pictureOf, seenAt, sourceName, views } from "./picture.js";
import { Traces } from "./traces.js";
import { note } from "./ui.js";
import { Viewer, VIEWER_KEYS } from "./viewer.js";

/** A picture of an item for the viewer, by its file and caption. */
export function source(item, [name, caption]) {
  const { url, step } = pictureOf(item, name) ?? {};
  const said = step === undefined ? caption : `${caption}, ${seenAt(item, step)}`;
  const place = isFinal(item.state) ? `no ${caption}` : stateLabel(item.state);
  const alt = `${said} of item ${item.index} ${itemName(item)}`;
  return { name, of: item.index, caption: said, title: caption, url, place, alt };
}

export class Detail {
  /**
   * `step(by)` asks for the next item or the one before; `closed()` is called as it is shut. `live` has the `job` and, by
   * index, the `points` of items that run, as far as they were seen.
   */
  constructor({ step, closed, live }) {
    this.live = live;
    this.box = new Lightbox("Selected item", { step, closed: () => this.close(closed) });
    this.viewer = new Viewer();
    this.box.shortcut = (key) => this.viewer.shortcut(key);
    this.box.keys = VIEWER_KEYS;
    this.frames = new Frames((step) => this.framed(step));
    this.viewer.stage.after(this.frames.node);
    this.news = changes();
    this.ends = { top: new Pictures(), bottom: new Pictures() };
    this.metrics = h("table", { class: "pairs", "aria-label": "Metrics" });
    this.files = h("ul", { class: "files" });
    this.problem = h("div");
    this.provenance = h("table", { class: "pairs", "aria-label": "Provenance" });
    this.origin = h("details", {}, h("summary", {}, "Provenance"), this.provenance);
    const failed = (error) => this.problem.replaceChildren(note("mixed", "The curve could not be loaded", error.message));
    this.traces = new Traces("Curve", failed);
    const ends = h("div", { class: "picture-rows" }, this.ends.top.node, this.ends.bottom.node);
    const filed = h("div", {}, h("h3", {}, "Files"), this.files);
    this.box.body.append(
      h("div", { class: "looked-at" }, this.problem, this.viewer.node, ends, this.traces.node),
      h("div", { class: "facts" }, this.metrics, filed, this.origin),
    );
  }

  close(closed) {
    this.item = undefined;
    this.frames.show();
    this.viewer.run(false);
    closed();
  }

  /** `place`: which of how many it is. Without, it is the same item as before, newer. */
  show(item, place = this.place) {
    this.place = place;
    const start = item.start.source === "blend" ? "the pixel blend" : sourceName(item.start);
    const words = item.target.source === item.start.source ? "" : `${sourceName(item.target)} · from ${start}`;
    this.box.open(`#${item.index} ${itemName(item)}`, words, place);
    if (!this.news(item) && this.item) return;
    const other = item.index !== this.item?.index;
    this.item = item;
    if (other) {
      this.viewer.zoom.reset();
      this.withFrames = false;
    }
    this.draw();
    for (const [end, pictures] of Object.entries(this.ends)) pictures.show(item, extremes(item, end));
    this.metrics.replaceChildren(...(item.metrics ? metricRows(item.metrics) : this.soFar(item)));
    this.files.replaceChildren(...files(item, `item-${item.index}-`));
    this.files.parentElement.hidden = item.artifacts.length === 0;
    this.origin.hidden = !item.provenance;
    const { parameters: _, ...origin } = item.provenance ?? {}; // the parameters stand beside, once for the job
    this.provenance.replaceChildren(...parameterRows(origin));
    this.problem.replaceChildren(
      ...(item.error ? [note("bad", String(item.error.title), item.error.detail ?? "")] : []),
    );
    this.showTrace();
  }

  draw() {
    const { item } = this;
    const [path] = this.frames.shown;
    const sources = views(item).map((view) => source(item, view));
    if (this.withFrames) sources.push({ name: "path", title: "path", caption: path.caption, canvas: path.canvas });
    else if (!artifact(item, "frames.png")) sources.push(...animation(item).map((view) => this.moving(view)));
    this.viewer.node.hidden = sources.length === 0;
    this.viewer.show(sources);
  }

  moving([name, caption]) {
    return { name, caption, url: artifact(this.item, name).url };
  }

  /** What is known of an item that is not over. */
  soFar({ preview }) {
    if (!preview) return [];
    const { curve_of: of } = this.live.job.progress;
    const rows = [["Step", `${count(preview.step)} of ${count(this.live.job.parameters.steps)}`]];
    if (preview.value !== null) rows.push([METRICS[of], measure(preview.value)]);
    return rows.map(([label, value]) => h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, value)));
  }

  /** Another frame is shown: its step is marked on the curve. */
  framed(step) {
    this.traces.chart.point(step);
    if (this.withFrames) this.draw();
  }

  /** The item's curve: the whole of it, or as far as it has been seen; then its frames. */
  async showTrace() {
    const { item } = this;
    const traces = this.traces.show([item]); // what is shown before it is fetched is not of another item
    const { job, points } = this.live;
    if (item.preview) this.traces.live(points.get(item.index) ?? [], job.progress.curve ?? [], job.progress.curve_of);
    const [trace] = (await traces) ?? [];
    if (trace === undefined || item.index !== this.item?.index) return;
    const sheet = { url: artifact(item, "frames.png")?.url, steps: trace?.frame_steps };
    this.withFrames = await this.frames.show(sheet).catch(() => false);
    if (this.withFrames) this.framed(sheet.steps.at(-1));
  }
}
