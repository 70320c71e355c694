// One place of the viewer: a picture, or words in its stead, with a caption.

import { h } from "./dom.js";

/** Words in place of a picture. */
export const noPicture = (words) => h("span", { class: "no-picture" }, words);

export class Frame {
  /** `shown()` is called as an image has come. */
  constructor(name, shown) {
    this.shown = shown;
    this.box = h("span", { class: "frame zoomable" });
    this.below = h("span", { class: "caption" });
    this.node = h("span", { class: "picture", "data-file": name }, this.box, this.below);
  }

  put(...contents) {
    this.url = undefined;
    this.box.replaceChildren(...contents);
  }

  /** Show a source's image. What was seen of the same item stays until it is loaded: nothing flickers. */
  async show({ url, alt, caption, of, place = "" }) {
    if (url === this.url) return;
    if (of !== this.of) this.put();
    Object.assign(this, { url, of });
    const image = h("img", { alt: alt ?? caption, src: url, draggable: "false" });
    await image.decode().catch(() => {}); // a preview is gone once its item is over; a tensor is no image
    if (url !== this.url) return;
    if (image.naturalWidth) this.box.replaceChildren(image);
    else if (!this.box.querySelector("img")) this.box.replaceChildren(noPicture(place));
    this.shown();
  }
}
