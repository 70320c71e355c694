// Pictures that change in place: by a slider, or by the pointer over a chart.

import { arrange, h, setAttribute, setText } from "./dom.js";
import { artifact, smoothed } from "./picture.js";

/** One picture with its caption; what it shows stays until the next one is there. */
export class Shot {
  constructor(caption = "") {
    this.image = smoothed(h("img", { alt: "", decoding: "async", hidden: true }));
    this.caption = h("span", { class: "caption" }, caption);
    this.frame = h("span", { class: "frame" }, this.image);
    this.node = h("span", { class: "picture" }, this.frame, this.caption);
  }

  /** Show the item's file, or an empty frame where it has none. */
  show(item, file, caption, alt = caption) {
    const url = item && artifact(item, file)?.url;
    this.image.hidden = !url;
    if (url) setAttribute(this.image, "src", url);
    setAttribute(this.image, "alt", alt);
    setText(this.caption, caption);
    return this;
  }
}

/** A picture of an item in a row or a strip. */
export function still(item, file, caption, alt) {
  const shot = new Shot().show(item, file, caption, alt);
  shot.image.loading = "lazy";
  return shot.node;
}

/** A slider with its name and what it says; `onmove` is told its value. */
export function slider(name, { max, value, say, onmove }) {
  const said = h("output", {}, say(value));
  const input = h("input", { type: "range", min: 0, max, value, step: 1, "aria-valuetext": say(value) });
  const set = (next) => {
    input.value = next;
    setAttribute(input, "aria-valuetext", say(Number(input.value)));
    setText(said, say(Number(input.value)));
  };
  input.addEventListener("input", () => {
    set(Number(input.value));
    onmove(Number(input.value));
  });
  return { node: h("label", { class: "slide" }, h("span", {}, name), input, said), set, input };
}

/** The first `few` of `all` made into nodes, and a button for so many more; `make` is called once for each. */
export class More {
  constructor(few, make) {
    this.few = few;
    this.shown = few;
    this.make = make;
    this.made = new Map();
    this.list = h("div", { class: "more-list" });
    this.button = h("button", { type: "button", onclick: () => this.more() }, "Show more");
    this.node = h("div", {}, this.list, h("p", { class: "more" }, this.button));
  }

  more() {
    this.shown += this.few;
    this.show(this.all);
  }

  /** `all` are pairs of a key and what is to be shown under it; each made thing has a `node` and a `show`. */
  show(all) {
    this.all = all;
    const shown = all.slice(0, this.shown);
    for (const [key, each] of shown) {
      if (!this.made.has(key)) this.made.set(key, this.make(key));
      this.made.get(key).show(each);
    }
    arrange(
      this.list,
      shown.map(([key]) => this.made.get(key).node),
    );
    this.button.hidden = all.length <= this.shown;
  }
}

/** Items by what `of` answers for each, in the order of the first of each. */
export function grouped(items, of) {
  const groups = new Map();
  for (const item of items) groups.set(of(item), [...(groups.get(of(item)) ?? []), item]);
  return groups;
}

export const panel = (title, about, ...nodes) =>
  h("section", { class: "panel study-panel", "aria-label": title }, h("h2", {}, title, " ", h("small", {}, about)), ...nodes);
