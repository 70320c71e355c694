// One selected item: large pictures, its metrics, its curves and its files.

import { getArtifact } from "./api.js";
import { lineChart } from "./chart.js";
import { changes, h, setText } from "./dom.js";
import { metricRows, parameterRows } from "./facts.js";
import { files } from "./files.js";
import { animation, artifact, extremes, itemName, Pictures, sourceName, views } from "./picture.js";
import { note } from "./ui.js";

const QUANTITIES = {
  relative_distance: "Relative distance",
  activation: "Activation",
  loss: "Loss",
  grad_norm: "Gradient norm",
};

export class Detail {
  constructor(close) {
    this.title = h("h3");
    this.source = h("p", { class: "muted" });
    this.pictures = new Pictures("pictures large");
    this.ends = { top: new Pictures(), bottom: new Pictures() };
    this.metrics = h("table", { class: "pairs", "aria-label": "Metrics" });
    this.files = h("ul", { class: "files" });
    this.problem = h("div");
    this.provenance = h("table", { class: "pairs", "aria-label": "Provenance" });
    this.origin = h("details", {}, h("summary", {}, "Provenance"), this.provenance);
    this.quantity = h("select", { "aria-label": "Quantity", onchange: () => this.plot() });
    this.quantities = changes();
    this.chart = lineChart("Curve", { controls: [this.quantity] });
    this.node = h(
      "li",
      { class: "detail panel", "aria-label": "Selected item" },
      h(
        "div",
        { class: "card-head" },
        h("div", {}, this.title, this.source),
        h("button", { type: "button", class: "push", onclick: close }, "Close"),
      ),
      this.problem,
      h(
        "div",
        { class: "detail-body" },
        h("div", { class: "picture-rows" }, this.pictures.node, this.ends.top.node, this.ends.bottom.node),
        this.metrics,
      ),
      this.chart.node,
      h("h4", {}, "Files"),
      this.files,
      this.origin,
    );
    this.node.addEventListener("keydown", (event) => event.key === "Escape" && close());
  }

  show(item) {
    this.item = item;
    setText(this.title, `#${item.index} ${itemName(item)}`);
    const start = item.start.source === "blend" ? "the pixel blend" : sourceName(item.start);
    setText(this.source, `${sourceName(item.target)} · from ${start}`);
    this.pictures.show(item, [...views(item), ...animation(item)]);
    for (const [end, pictures] of Object.entries(this.ends)) pictures.show(item, extremes(item, end));
    this.metrics.replaceChildren(...(item.metrics ? metricRows(item.metrics) : []));
    this.files.replaceChildren(...files(item, `item-${item.index}-`));
    this.origin.hidden = !item.provenance;
    const { parameters: _, ...origin } = item.provenance ?? {}; // the parameters stand beside, once for the job
    this.provenance.replaceChildren(...parameterRows(origin));
    this.problem.replaceChildren(
      ...(item.error ? [note("bad", String(item.error.title), item.error.detail ?? "")] : []),
    );
    this.showTrace();
  }

  /** Fetch the trace of the item; a reply that comes after another item was selected is dropped. */
  async showTrace() {
    const url = artifact(this.item, "trace.json")?.url;
    this.chart.node.hidden = !url;
    if (url === this.url) return;
    this.url = url;
    this.trace = null;
    this.plot();
    if (!url) return;
    try {
      const trace = await getArtifact(url);
      if (url === this.url) this.trace = trace;
    } catch (error) {
      if (url !== this.url) return;
      this.url = undefined; // selecting the item again asks again
      this.problem.replaceChildren(note("mixed", "The curve could not be loaded", error.message));
    }
    if (url === this.url) this.plot();
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
