// Coordinates and what maximises them, beside the images of a data set that activate each most and least.

import { changes, h } from "./dom.js";
import { measure, plural } from "./format.js";
import { extremes, sourceName } from "./picture.js";
import { grouped, More, panel, still } from "./shots.js";

const FEW = 24;
const ENDS = { top: "most active", bottom: "least active" };

const keyOf = ({ target }) => String(target.label ?? sourceName(target));

function row(name, pictures) {
  if (pictures.length === 0) return [];
  return [h("div", { class: "filmstrip" }, h("h4", {}, name), h("div", { class: "pictures" }, ...pictures))];
}

/** What one network's searches came to, a picture for each start. */
const maximised = (items) =>
  items.map((item) => {
    const from = `from ${item.start.label ?? sourceName(item.start)}`;
    const reached = item.metrics ? `${measure(item.metrics.activation)}, ${from}` : from;
    return still(item, "result.png", reached, `${keyOf(item)} maximised ${from}`);
  });

function ranked(items, end) {
  const item = items.find((each) => extremes(each, end).length > 0);
  if (!item) return [];
  return extremes(item, end).map(([file, caption]) => still(item, file, caption.replace(/^\w+ \d+: /, ""), caption));
}

class Coordinate {
  constructor(key) {
    this.rows = h("div", { class: "filmstrips" });
    this.changed = changes();
    this.node = h("article", { class: "coordinate", "aria-label": key }, h("h3", {}, key), this.rows);
  }

  show(parts) {
    if (!this.changed(parts)) return;
    const named = parts.length > 1 ? (name, what) => `${name}, ${what}` : (_, what) => what;
    const rows = parts.flatMap(([name, items]) => [
      ...row(named(name, "maximised"), maximised(items)),
      ...Object.entries(ENDS).flatMap(([end, words]) => row(named(name, words), ranked(items, end))),
    ]);
    this.rows.replaceChildren(...rows);
  }
}

export class Coordinates {
  constructor() {
    this.sought = h("input", { type: "search", placeholder: "Coordinate", "aria-label": "Find a coordinate" });
    this.sought.addEventListener("input", () => this.draw());
    this.cards = new More(FEW, (key) => new Coordinate(key));
    this.cards.list.classList.add("coordinates");
    this.without = h("p", { class: "muted", hidden: true });
    this.node = panel("Coordinates", "", this.sought, this.without, this.cards.node);
    this.about = this.node.querySelector("small");
  }

  show(parts) {
    const byKey = parts.map(({ items }) => grouped(items, keyOf));
    const keys = [...new Set(byKey.flatMap((groups) => [...groups.keys()]))];
    this.about.textContent = plural(keys.length, "direction");
    this.sought.hidden = keys.length < 9;
    this.offer(parts.map(({ job }) => job));
    const of = (key) => parts.flatMap(({ name }, i) => (byKey[i].has(key) ? [[name, byKey[i].get(key)]] : []));
    this.all = keys.map((key) => [key, of(key)]);
    this.draw();
  }

  /** Where no job has them, how to have a data set's most and least activating images stand beside. */
  offer(jobs) {
    this.without.hidden = !jobs.every(({ parameters, parent }) => parameters.top_images === null && !parent);
    if (this.without.hidden) return;
    const link = h("a", { href: `/ui/new?${new URLSearchParams({ clone: jobs[0].id, with: "top_images" })}` }, "Ask again with them");
    const why = "The images of a data set that activate each coordinate most and least can stand beside: the field ";
    this.without.replaceChildren(why, h("code", {}, "top_images"), " asks for them. ", link, ".");
  }

  draw() {
    const words = this.sought.value.trim().toLowerCase();
    this.cards.show(this.all.filter(([key]) => key.toLowerCase().includes(words)));
  }
}
