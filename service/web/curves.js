// The curves of chosen items over each other, in one chart. Which items those are lives in the address: ?curves=0,3-5.

import { getArtifact, getItem, listItems } from "./api.js";
import { lineChart } from "./chart.js";
import { arrange, h, setText } from "./dom.js";
import { QUANTITIES } from "./facts.js";
import { isFinal } from "./format.js";
import { artifact, itemName } from "./picture.js";
import { refusal } from "./ui.js";

const MOST = 8;
const FEW = 5;
/** What can be chosen without naming items: words, the metric to sort by, and its order. */
const CHOICES = {
  first: ["The first", "index", "asc"],
  least: ["Least METRIC", null, "asc"],
  most: ["Greatest METRIC", null, "desc"],
};

/** "0, 3-5" as [0, 3, 4, 5]; null if it says anything else. */
export function indicesOf(text) {
  const found = [];
  for (const part of text.split(/[\s,]+/).filter(Boolean)) {
    const [, first, last = first] = /^(\d{1,9})(?:-(\d{1,9}))?$/.exec(part) ?? [];
    if (first === undefined) return null;
    for (let i = Number(first); i <= Number(last) && found.length <= MOST; i += 1) found.push(i);
  }
  return [...new Set(found)];
}

export class Curves {
  constructor(place, id, job) {
    this.id = id;
    this.metric = job.progress.curve_of === "activation" ? "activation" : "relative_distance";
    this.traces = [];
    this.items = h("input", { type: "text", inputmode: "numeric", placeholder: "such as 0, 3-5", autocomplete: "off" });
    this.quantity = h("select", { "aria-label": "Quantity", onchange: () => this.draw() });
    this.problem = h("div", { role: "status" });
    this.chart = lineChart("", { controls: [this.quantity], names: [] });
    this.plot = h("div", { class: "panel" });
    const form = h("form", { class: "choice", onsubmit: (event) => this.choose(event) });
    form.append(h("label", { class: "field" }, "Items", this.items), h("button", {}, "Show"));
    const choice = ([name, [words]]) => {
      const text = words.replace("METRIC", this.metric === "activation" ? "activation" : "distance");
      return h("button", { type: "button", onclick: () => this.pick(name) }, text);
    };
    form.append(...Object.entries(CHOICES).map(choice));
    place.replaceChildren(form, this.problem, this.plot);
  }

  /**
   * What is shown changes only by a choice, here or among the items; before the first one, the first items are shown once
   * they are over.
   */
  async refresh(job, signal) {
    const asked = new URLSearchParams(window.location.search).get("curves");
    if (asked && asked !== this.asked) {
      this.items.value = this.asked = asked;
      this.begun = false;
    }
    if (this.begun || job.items.succeeded === 0) {
      if (!this.begun) setText(this.problem, isFinal(job.state) ? "No item has a curve." : "No item is finished yet.");
      return;
    }
    if (this.items.value) await this.load(signal);
    else await this.pick("first", signal);
  }

  async pick(name, signal) {
    const [, sort, order] = CHOICES[name];
    const asked = { limit: FEW, state: "succeeded", sort: sort ?? this.metric, order };
    await this.attempt(async () => {
      const { items } = await listItems(this.id, asked, signal);
      this.items.value = items.map(({ index }) => index).join(", ");
      await this.read(items, signal);
    }, signal);
  }

  async choose(event) {
    event.preventDefault();
    const url = new URL(window.location.href);
    url.searchParams.set("curves", this.items.value);
    this.asked = this.items.value;
    window.history.replaceState(window.history.state, "", url);
    await this.load();
  }

  async load(signal) {
    const indices = indicesOf(this.items.value);
    if (indices === null || indices.length === 0 || indices.length > MOST) {
      const text = `Name 1 to ${MOST} items by their numbers, such as 0, 3-5.`;
      return setText(this.problem, text);
    }
    return this.attempt(async () => {
      const items = await Promise.all(indices.map((index) => getItem(this.id, index, signal)));
      await this.read(items, signal);
    }, signal);
  }

  async attempt(call, signal) {
    setText(this.problem, "Loading curves…");
    try {
      await call();
      this.begun = true;
    } catch (error) {
      if (signal) throw error; // the poll says what is wrong
      this.problem.replaceChildren(refusal(error));
    }
  }

  async read(items, signal) {
    const found = items.filter((item) => artifact(item, "trace.json"));
    const read = async (item) => ({ item, trace: await getArtifact(artifact(item, "trace.json").url, signal) });
    this.traces = await Promise.all(found.map(read));
    const without = items.filter((item) => !found.includes(item)).map(({ index }) => `#${index}`);
    setText(this.problem, without.length ? `No curve of ${without.join(", ")}.` : "");
    this.draw();
  }

  draw() {
    const names = Object.keys(QUANTITIES).filter((name) => this.traces.some(({ trace }) => trace[name]));
    const chosen = names.includes(this.quantity.value) ? this.quantity.value : names[0];
    this.quantity.replaceChildren(...names.map((value) => h("option", { value }, QUANTITIES[value])));
    arrange(this.plot, chosen ? [this.chart.node] : []);
    if (!chosen) return;
    this.quantity.value = chosen;
    const title = QUANTITIES[chosen];
    if (title !== this.chart.title) this.chart.log.checked = chosen !== "activation";
    const keys = this.traces.map(({ item }) => `#${item.index} ${itemName(item)}`);
    const lines = this.traces.map(({ trace }) => (trace[chosen] ?? []).map((y, i) => [trace.step[i], y]));
    setText(this.chart.heading, title);
    this.chart.update(lines, title, keys);
  }
}
