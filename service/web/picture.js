// The pictures of an item, and how an item is called.

import { h } from "./dom.js";
import { isFinal, stateLabel } from "./format.js";

export const VIEWS = ["target", "start", "result"];

export const artifact = (item, name) => item.artifacts.find((each) => each.name === name);

/** Where the target comes from: an image of a data set, or one that the client sent. */
export function sourceName({ source, dataset, index, image }) {
  if (source === "dataset") return `${dataset} #${index}`;
  return source === "image" ? `image ${image}` : String(source);
}

export const itemName = ({ target }) => target.label ?? sourceName(target);

/** A picture or, until there is one, a place of the same size that says why not. The image stays while its URL does. */
export class Picture {
  constructor(view) {
    this.view = view;
    this.box = h("span", { class: "frame" });
    this.node = h("span", { class: "picture" }, this.box, h("span", { class: "caption" }, view));
  }

  update(item) {
    const url = artifact(item, `${this.view}.png`)?.url ?? null;
    const place = isFinal(item.state) ? `no ${this.view}` : stateLabel(item.state);
    if (url ? url === this.url : place === this.place) return;
    this.url = url;
    this.place = url ? null : place;
    this.box.replaceChildren(
      url ? this.image(item, url) : h("span", { class: "no-picture", "data-state": item.state }, place),
    );
  }

  image(item, url) {
    const alt = `${this.view} of item ${item.index} ${itemName(item)}`.trim();
    const image = h("img", { alt, loading: "lazy", decoding: "async", src: url });
    // Whole pixels of a small image stay sharp; one that is larger than its place is scaled down smoothly.
    image.addEventListener("load", () => image.classList.toggle("smooth", image.naturalWidth > this.box.clientWidth));
    return image;
  }
}
