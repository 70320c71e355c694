// The curves of one item, or of two that are compared, in one chart: of what was kept, or of what runs.

import { getArtifact } from "./api.js";
import { lineChart } from "./chart.js";
import { changes, h } from "./dom.js";
import { QUANTITIES } from "./facts.js";
import { artifact } from "./picture.js";

export class Traces {
  /** `failed(error)` hears that a curve could not be loaded. */
  constructor(title, failed) {
    Object.assign(this, { failed, traces: [], names: [""] });
    this.quantity = h("select", { "aria-label": "Quantity", onchange: () => this.plot() });
    this.quantities = changes();
    this.chart = lineChart(title, { controls: [this.quantity], names: [""] });
    this.node = this.chart.node;
  }

  /**
   * Fetch the traces of items, called `names`. Answers them once they are there, null for an item that has none; or
   * undefined if nothing is new, or others were asked for meanwhile.
   */
  async show(items, names = [""]) {
    const urls = items.map((item) => item && artifact(item, "trace.json")?.url);
    this.node.hidden = !urls.some(Boolean);
    if (urls.join() === this.urls) return undefined;
    const asked = (this.urls = urls.join());
    Object.assign(this, { names, traces: [] });
    if (this.node.hidden) return items.map(() => null);
    this.plot();
    try {
      const traces = await Promise.all(urls.map((url) => (url ? getArtifact(url) : null)));
      if (asked !== this.urls) return undefined;
      this.traces = traces;
      this.plot();
      return traces;
    } catch (error) {
      if (asked !== this.urls) return undefined;
      this.urls = undefined; // selecting the item again asks again
      return this.failed(error);
    }
  }

  /** While an item has no trace: its points so far, and the curve of the job, which is of `quantity`. */
  live(points, curve, quantity) {
    this.node.hidden = false;
    this.quantity.hidden = true;
    if (quantity !== this.name) this.chart.log.checked = quantity !== "activation"; // another quantity, another axis
    this.name = quantity;
    this.chart.update([points, curve], QUANTITIES[quantity], ["this item", "median of those that run"]);
  }

  /** Offer the quantities that the traces have; the choice stays where the next item's trace has it too. */
  offer() {
    const names = Object.keys(QUANTITIES).filter((name) => this.traces.some((trace) => trace?.[name]));
    if (names.length === 0 || !this.quantities(names)) return;
    const chosen = this.quantity.value;
    this.quantity.replaceChildren(...names.map((value) => h("option", { value }, QUANTITIES[value])));
    if (names.includes(chosen)) this.quantity.value = chosen;
    else this.chart.log.checked = !names.includes("activation");
  }

  plot() {
    this.offer();
    this.quantity.hidden = false;
    this.name = this.quantity.value;
    const points = (trace) => (trace?.[this.name] ?? []).map((value, i) => [trace.step[i], value]);
    this.chart.update(this.traces.map(points), QUANTITIES[this.name], this.names);
  }
}
