// The pictures of an item, and how an item is called.

import { imageUrl, uploadedUrl } from "./api.js";
import { arrange, h, setText, still } from "./dom.js";
import { count, isFinal, measure, stateLabel } from "./format.js";
import { uploadedName } from "./uploadnames.js";

export const artifact = (item, name) => item.artifacts.find((each) => each.name === name);

/** Where a target or a start comes from. */
export function sourceName(source) {
  const { source: from, dataset, index, image, pattern, layer, first, second } = source;
  const name = {
    dataset: () => `${dataset} #${index}`,
    image: () => uploadedName(image),
    pattern: () => `${pattern} pattern`,
    direction: () => `${layer} layer`,
    blend: () => `${sourceName(second)} to ${sourceName(first)}`,
  }[from];
  return name ? name() : String(from);
}

const maximises = (item) => item.target.source === "direction";
/** Sources of items that are no pictures: a table, a summary of all the others. */
const WORDS = ["table", "summary", "registration", "training"];

/** What the item aims at and, where that is not enough to tell it from its neighbours, what else sets it apart. */
export function itemName(item) {
  const { target, start, settings } = item;
  const name = target.label ?? sourceName(target);
  if (maximises(item)) return `${name}, from ${start.label ?? sourceName(start)}`;
  return settings?.eps === undefined ? name : `${name}, radius ${measure(settings.eps)}`;
}

/** Pairs of a file and its caption: what every item of this kind has, or will have. */
export function views(item) {
  if (WORDS.includes(item.target.source)) return [];
  const [start, result] = [["start.png", "start"], ["result.png", "result"]];
  if (maximises(item)) return [start, result];
  if (item.target.source !== "blend") return [["target.png", "target"], start, result];
  const blend = ["target.png", "pixel blend"];
  return item.start.source === "blend" ? [blend, result] : [blend, start, result];
}

/** The animation of the search, where the job asked for one and the viewer does not mind motion. */
export function animation(item) {
  return artifact(item, "path.gif") && !still() ? [["path.gif", "path"]] : [];
}

/** A data set's images that activate the item's direction most ("top") or least ("bottom"). */
export function extremes(item, end) {
  const activations = item.metrics?.[`${end}_activations`] ?? [];
  const pairs = activations.map((value, i) => [`${end}-${i + 1}.png`, `${end} ${i + 1}: ${measure(value)}`]);
  return pairs.filter(([file]) => artifact(item, file));
}

/** Whole pixels of a small image stay sharp; one larger than its frame is scaled down smoothly. */
export function smoothed(image, frame = image) {
  image.addEventListener("load", () => image.classList.toggle("smooth", image.naturalWidth > frame.clientWidth));
  return image;
}

/** An image in its frame. */
function imageIn(box, url, alt, loading = "lazy") {
  return smoothed(h("img", { alt, loading, decoding: "async", src: url }), box);
}

/** The picture that a source names, as it is before the item's network has it resized. */
function original({ source: from, dataset, index, image }) {
  if (from === "dataset") return { url: imageUrl(dataset, index) };
  return from === "image" ? { url: uploadedUrl(image) } : null;
}

/**
 * Where a file of an item is to be seen: until it is stored, a result as it was a moment ago, and a target or a start
 * where it was taken from. Null: nowhere.
 */
export function pictureOf(item, file) {
  const url = artifact(item, file)?.url;
  if (url) return { url };
  if (isFinal(item.state)) return null;
  return { "result.png": item.preview, "target.png": original(item.target), "start.png": original(item.start) }[file];
}

/** At which step of its search an item was seen, and whether it stays there. */
export const seenAt = ({ state }, step) => `${state === "running" ? "" : "paused at "}step ${count(step)}`;

/** A picture that is of no item. */
export function plainPicture(url, caption, alt) {
  const box = h("span", { class: "frame" });
  box.append(imageIn(box, url, alt));
  return h("span", { class: "picture" }, box, h("span", { class: "caption" }, caption));
}

/** A picture or, until there is one, a place of the same size that says why not. The image stays while its URL does. */
export class Picture {
  constructor([file, caption]) {
    this.file = file;
    this.caption = caption;
    this.box = h("span", { class: "frame" });
    this.below = h("span", { class: "caption" }, caption);
    this.node = h("span", { class: "picture", "data-file": file }, this.box, this.below);
  }

  update(item) {
    const { url = null, step } = pictureOf(item, this.file) ?? {};
    const place = isFinal(item.state) ? `no ${this.caption}` : stateLabel(item.state);
    const caption = step === undefined ? this.caption : seenAt(item, step);
    setText(this.below, caption);
    if (url ? url === this.url : place === this.place) return;
    this.url = url;
    this.place = url ? null : place;
    const passing = !artifact(item, this.file);
    if (!url || (passing && !this.box.querySelector("img")))
      this.box.replaceChildren(h("span", { class: "no-picture", "data-state": item.state }, place));
    if (url) this.put(`${caption} of item ${item.index} ${itemName(item)}`.trim(), passing);
  }

  /** What was seen before stays until an image that may soon give way can take its place: nothing flickers. */
  async put(alt, passing) {
    const { url, box } = this;
    const swapped = passing || box.querySelector("img");
    const image = imageIn(box, url, alt, swapped ? "eager" : "lazy");
    if (swapped) await image.decode().catch(() => {}); // a preview is gone once its item is over; a tensor is no image
    if (url === this.url && (!swapped || image.naturalWidth)) box.replaceChildren(image);
  }
}

/** Some pictures in a row; those that an update does not change stay. */
export class Pictures {
  constructor(className = "pictures") {
    this.node = h("div", { class: className });
    this.shown = [];
  }

  show(item, wanted) {
    const same = (picture, [file, caption]) => picture?.file === file && picture.caption === caption;
    this.shown = wanted.map((view, i) => (same(this.shown[i], view) ? this.shown[i] : new Picture(view)));
    for (const picture of this.shown) picture.update(item);
    arrange(
      this.node,
      this.shown.map((picture) => picture.node),
    );
    this.node.hidden = wanted.length === 0;
  }
}
