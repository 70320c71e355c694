// Pictures of the images that a request names: those that are chosen, and those that can be.

import { arrange, h, setAttribute, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { imageUrl } from "./api.js";
import { plainPicture } from "./picture.js";
import { sketch } from "./sketches.js";

const SHOWN = 48;
const PAGE = 60;

/** What is chosen; a press on a picture takes it out, where that can be. */
export class Chosen {
  constructor(remove) {
    this.remove = remove;
    this.tiles = new Map();
    this.list = h("ul", { class: "tiles" });
    this.rest = h("p", { class: "hint" });
    this.node = h("div", {}, this.list, this.rest);
  }

  /**
   * `pictures`: {url, name, at}; `at` is its place, null where it cannot be taken out. What has no url is shown by its
   * name, and by a sketch of its `kind` if it has one.
   */
  show(pictures) {
    const before = this.tiles;
    this.tiles = new Map();
    for (const picture of pictures.slice(0, SHOWN)) {
      const key = JSON.stringify(picture);
      this.tiles.set(key, before.get(key) ?? this.tile(picture));
    }
    arrange(this.list, [...this.tiles.values()]);
    const more = pictures.length - SHOWN;
    setText(this.rest, more > 0 ? `and ${plural(more, "more image")}` : "");
  }

  tile({ url, name, at, kind }) {
    const seen = url ? plainPicture(url, name, "") : h("span", { class: "caption" }, kind ? sketch(kind) : null, name);
    if (at === null) return h("li", {}, seen);
    const label = `Remove ${name}`;
    return h(
      "li",
      {},
      h(
        "button",
        { type: "button", class: "tile", "aria-label": label, title: label, onclick: () => this.remove(at) },
        seen,
      ),
    );
  }
}

/** All images of a data set, page by page; a press on a picture takes it in or out. */
export class Picker {
  constructor(toggle) {
    this.toggle = toggle;
    this.grid = h("ul", { class: "tiles" });
    this.more = h("button", { type: "button", onclick: () => this.page() }, "More pictures");
    this.node = h(
      "details",
      {},
      h("summary", {}, "Choose from the pictures"),
      h("div", { class: "picker" }, this.grid, this.more),
    );
    this.node.addEventListener("toggle", () => this.node.open && this.fill());
  }

  show(card, chosen) {
    if (card?.name !== this.card?.name) this.grid.replaceChildren();
    this.card = card;
    this.chosen = chosen;
    if (this.node.open) this.fill();
  }

  fill() {
    if (this.card && !this.grid.children.length) this.page();
    [...this.grid.children].forEach((tile, i) =>
      setAttribute(tile.firstChild, "aria-pressed", String(this.chosen.has(i))),
    );
  }

  page() {
    const { name, size } = this.card;
    const first = this.grid.children.length;
    for (let i = first; i < Math.min(first + PAGE, size); i += 1) {
      const picture = plainPicture(imageUrl(name, i), `#${i}`, "");
      const button = {
        type: "button",
        class: "tile",
        "aria-label": `Image ${i}`,
        "aria-pressed": String(this.chosen.has(i)),
        onclick: () => this.toggle(i),
      };
      this.grid.append(h("li", {}, h("button", button, picture)));
    }
    const left = size - this.grid.children.length;
    this.more.hidden = left <= 0;
    setText(this.more, `More pictures (${count(left)} left)`);
  }
}
