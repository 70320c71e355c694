// One item, looked at closely: its pictures, its metrics, its curves and its files.

import { getArtifact } from "./api.js";
import { lineChart } from "./chart.js";
import { changes, h } from "./dom.js";
import { metricRows, parameterRows, QUANTITIES } from "./facts.js";
import { files } from "./files.js";
import { isFinal, stateLabel } from "./format.js";
import { Frames } from "./frames.js";
import { Lightbox } from "./lightbox.js";
import { animation, artifact, extremes, itemName, Pictures, pictureOf, sourceName, views } from "./picture.js";
import { note } from "./ui.js";
import { Viewer } from "./viewer.js";

/** A picture of an item for the viewer, by its file and caption. */
export function source(item, [name, caption]) {
  const { url, step } = pictureOf(item, name) ?? {};
  const said = step === undefined ? caption : `${caption}, step ${step}`;
  const place = isFinal(item.state) ? `no ${caption}` : stateLabel(item.state);
  const alt = `${said} of item ${item.index} ${itemName(item)}`;
  return { name, of: item.index, caption: said, title: caption, url, place, alt };
}

export class Detail {
  /** `step(by)` asks for the next item or the one before; `closed()` is called as it is shut. */
  constructor({ step, closed }) {
    this.box = new Lightbox("Selected item", { step, closed: () => this.close(closed) });
    this.viewer = new Viewer();
    this.box.shortcut = (key) => this.viewer.shortcut(key);
    this.frames = new Frames(() => this.draw());
    this.viewer.stage.after(this.frames.node);
    this.news = changes();
    this.ends = { top: new Pictures(), bottom: new Pictures() };
    this.metrics = h("table", { class: "pairs", "aria-label": "Metrics" });
    this.files = h("ul", { class: "files" });
    this.problem = h("div");
    this.provenance = h("table", { class: "pairs", "aria-label": "Provenance" });
    this.origin = h("details", {}, h("summary", {}, "Provenance"), this.provenance);
    this.quantity = h("select", { "aria-label": "Quantity", onchange: () => this.plot() });
    this.quantities = changes();
    this.chart = lineChart("Curve", { controls: [this.quantity] });
    const ends = h("div", { class: "picture-rows" }, this.ends.top.node, this.ends.bottom.node);
    const filed = h("div", {}, h("h3", {}, "Files"), this.files);
    this.box.body.append(
      h("div", { class: "looked-at" }, this.problem, this.viewer.node, ends, this.chart.node),
      h("div", { class: "facts" }, this.metrics, filed, this.origin),
    );
  }

  close(closed) {
    this.item = this.url = undefined;
    this.frames.show(null);
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
    this.metrics.replaceChildren(...(item.metrics ? metricRows(item.metrics) : []));
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
    const { item, frames } = this;
    const sources = views(item).map((view) => source(item, view));
    if (this.withFrames) sources.push({ name: "path", title: "path", caption: frames.caption, canvas: frames.canvas });
    else if (!artifact(item, "frames.png")) sources.push(...animation(item).map((view) => this.moving(view)));
    this.viewer.node.hidden = sources.length === 0;
    this.viewer.show(sources);
  }

  moving([name, caption]) {
    return { name, caption, url: artifact(this.item, name).url };
  }

  /** Fetch the trace of the item; a reply that comes after another item was selected is dropped. */
  async showTrace() {
    const url = artifact(this.item, "trace.json")?.url;
    this.chart.node.hidden = !url;
    if (url === this.url) return;
    this.url = url;
    this.trace = null;
    this.plot();
    this.frames.show(null);
    if (!url) return;
    try {
      const trace = await getArtifact(url);
      if (url !== this.url) return;
      this.trace = trace;
      this.plot();
      const sheet = artifact(this.item, "frames.png")?.url;
      const any = await this.frames.show(sheet, trace.frame_steps);
      if (url !== this.url) return;
      this.withFrames = any;
      if (any) this.draw();
    } catch (error) {
      if (url !== this.url) return;
      this.url = undefined; // selecting the item again asks again
      this.problem.replaceChildren(note("mixed", "The curve could not be loaded", error.message));
    }
  }

  /** Offer the quantities that the trace has; the choice stays where the next item's trace has it too. */
  offer() {
    const names = Object.keys(QUANTITIES).filter((name) => this.trace?.[name]);
    if (names.length === 0 || !this.quantities(names)) return;
    const chosen = this.quantity.value;
    this.quantity.replaceChildren(...names.map((value) => h("option", { value }, QUANTITIES[value])));
    if (names.includes(chosen)) this.quantity.value = chosen;
    this.chart.log.checked = !names.includes("activation");
  }

  plot() {
    this.offer();
    const name = this.quantity.value;
    const values = this.trace?.[name] ?? [];
    this.chart.update(
      [values.map((value, i) => [this.trace.step[i], value])],
      QUANTITIES[name],
    );
  }
}
