// Which items are shown, and in what order: the controls above a grid, and the same in the page's address.

import { h, setOptions, setText } from "./dom.js";
import { METRICS } from "./facts.js";
import { count, stateLabel } from "./format.js";
import { Where, nameIn } from "./where.js";

const STATES = ["queued", "running", "succeeded", "failed", "cancelled"];

export const metricLabel = (name) => (METRICS[name] ?? name.replaceAll("_", " ")).replace("AIM", "target");

/** What the address says, in the words of the API. */
export function orderInAddress() {
  const said = new URLSearchParams(window.location.search);
  const [state, error, sort] = [said.getAll("state"), said.get("error") ?? "", said.get("sort") ?? ""];
  return { state, error, sort, order: said.get("order") === "desc" ? "desc" : "", metric: said.getAll("metric") };
}

export class OrderBar {
  /** `changed(order)` hears of each choice, once it is in the address. */
  constructor(changed) {
    this.changed = changed;
    this.metrics = new Set();
    this.more = []; // pairs of a value and its name, beside the metrics
    this.state = h("select", { onchange: () => this.choose({ state: this.state.value ? [this.state.value] : [] }) });
    this.sort = h("select", { onchange: () => this.choose({ sort: this.sort.value }) });
    this.way = h("button", { type: "button", onclick: () => this.turn() });
    this.error = h("button", { type: "button", hidden: true, onclick: () => this.choose({ error: "" }) });
    this.where = new Where((metric) => this.choose({ metric }));
    this.found = h("span", { class: "muted", role: "status" });
    this.node = h(
      "div",
      { class: "order" },
      h("label", { class: "field" }, "State", this.state),
      h("label", { class: "field" }, "Sort by", this.sort),
      this.way,
      ...this.where.nodes,
      this.error,
      this.found,
    );
    window.addEventListener("popstate", () => this.read());
    this.order = orderInAddress();
    this.show();
  }

  /** After a step back or forward. */
  read() {
    const order = orderInAddress();
    if (JSON.stringify(order) === JSON.stringify(this.order)) return;
    this.order = order;
    this.show(this.counts, null);
    this.changed(order);
  }

  choose(change) {
    this.order = { ...this.order, ...change };
    const { state, error, sort, order, metric } = this.order;
    const said = new URLSearchParams(window.location.search);
    for (const name of ["state", "error", "sort", "order", "metric"]) said.delete(name);
    for (const each of state) said.append("state", each);
    for (const each of metric) said.append("metric", each);
    for (const [name, value] of Object.entries({ error, sort, order })) if (value) said.set(name, value);
    window.history.pushState(null, "", `${window.location.pathname}${said.size ? `?${said}` : ""}`);
    this.show(this.counts, null);
    this.changed(this.order);
  }

  turn() {
    this.choose({ order: this.order.order ? "" : "desc" });
  }

  /** Offer the metrics that an item has to sort by. */
  offer(item) {
    const before = this.metrics.size;
    for (const [name, value] of Object.entries(item.metrics ?? {}))
      if (typeof value === "number") this.metrics.add(name);
    if (this.metrics.size > before) this.show();
  }

  /** `counts` are the job's items by state; `matching` says how many are shown, where not all are. */
  show(counts = this.counts, matching = this.matching ?? null) {
    Object.assign(this, { counts, matching });
    const { state, error, sort, order, metric } = this.order;
    const of = (each) => (counts ? ` (${count(counts[each] ?? 0)})` : "");
    const states = STATES.filter((each) => counts?.[each] || state.includes(each));
    const several = state.length > 1 || (state.length && !STATES.includes(state[0])) ? [[state.join(), state.map(stateLabel).join(" or ")]] : [];
    setOptions(this.state, [["", "all"], ...states.map((each) => [each, stateLabel(each) + of(each)]), ...several], state.join());
    const beside = this.more.some(([name]) => name === sort) ? "" : sort;
    const named = [beside, ...metric.map(nameIn)].filter((name) => name && name !== "index");
    const metrics = [...new Set([...this.metrics, ...named])].map((name) => [name, metricLabel(name)]);
    setOptions(this.sort, [["", "index"], ...metrics, ...this.more], sort === "index" ? "" : sort);
    this.where.show(metrics, metric);
    setText(this.way, order ? "Descending" : "Ascending");
    this.error.hidden = !error;
    setText(this.error, `Cause: ${error} ×`);
    this.error.setAttribute("aria-label", `Show items that failed by other causes than ${error} too`);
    setText(this.found, matching === null ? "" : `${count(matching)} of ${count(counts?.total ?? 0)}`);
  }
}
