// Pictures of one thing, looked at together: side by side, as a difference, or in turn in one place.

import { arrange, h, setText, still } from "./dom.js";
import { measure } from "./format.js";
import { drawDifference, loaded } from "./pixels.js";
import { Frame, noPicture } from "./viewed.js";
import { Zoom } from "./zoom.js";

const MODES = { side: "Side by side", difference: "Difference", flicker: "Flicker" };
const KEYS = { s: "side", d: "difference", f: "flicker" };
/** What a dialog around it says of its keys. */
export const VIEWER_KEYS = [
  { key: "s", label: "Side by side" },
  { key: "d", label: "Their difference" },
  { key: "f", label: "In turn, in one place" },
  { key: "+ −", label: "Zoom in, out" },
  { key: "0", label: "The whole picture" },
];
/** Slower than three flashes a second. */
const EVERY_MS = 450;

export class Viewer {
  /** `usual` are the names of the two pictures that are compared first. */
  constructor(usual = ["", "result.png"]) {
    Object.assign(this, { usual, mode: "side", sources: [], asked: 0 });
    this.frames = new Map();
    this.times = h("output", { class: "muted" });
    this.zoom = new Zoom((times) => setText(this.times, `${measure(times)}×`));
    this.canvas = h("canvas", { role: "img" });
    this.modes = Object.entries(MODES).map(([mode, label]) =>
      h("button", { type: "button", "aria-pressed": String(mode === "side"), onclick: () => this.turn(mode) }, label),
    );
    this.first = h("select", { "aria-label": "First picture", onchange: () => this.draw() });
    this.second = h("select", { "aria-label": "Second picture", onchange: () => this.draw() });
    const gains = [1, 2, 4, 8].map((gain) => h("option", { value: gain }, `${gain}× as strong`));
    this.gain = h("select", { "aria-label": "Strength", onchange: () => this.draw() }, ...gains);
    this.turning = h("button", { type: "button", onclick: () => this.run(!this.timer) });
    this.swap = h("button", { type: "button", onclick: () => this.flick() }, "Switch");
    this.pair = h("span", { class: "buttons", hidden: true }, this.first, this.second, this.gain, this.turning, this.swap);
    const zoomed = (label, factor, text) =>
      h("button", { type: "button", "aria-label": label, onclick: () => this.scale(factor) }, text);
    const zooms = [zoomed("Zoom out", 0.5, "−"), this.times, zoomed("Zoom in", 2, "+"), zoomed("Whole picture", 0, "Fit")];
    const modes = h("span", { class: "buttons modes", role: "group", "aria-label": "View" }, ...this.modes);
    const bar = h("div", { class: "viewer-bar" }, modes, this.pair, h("span", { class: "buttons push" }, ...zooms));
    this.stage = h("div", { class: "viewed" });
    this.node = h("div", { class: "viewer" }, this.stage, bar);
  }

  /** `sources` each have a `name`, a `caption`, and a `url`, a `canvas`, or neither, while `place` says why. */
  show(sources) {
    this.sources = sources;
    const seen = sources.filter((source) => source.url || source.canvas);
    const names = seen.map(({ name }) => name);
    if (JSON.stringify(names) !== this.names) {
      this.names = JSON.stringify(names);
      this.offer(seen);
    }
    this.modes.forEach((button, i) => {
      button.disabled = i > 0 && seen.length < 2;
    });
    if (seen.length < 2) this.turn("side");
    else this.draw();
  }

  /** The pictures to choose two of: kept where they are still there, or the first and the result. */
  offer(seen) {
    const names = seen.map(({ name }) => name);
    const kept = [this.first.value, this.second.value];
    const usual = this.usual.map((name, i) => (names.includes(name) ? name : names.at(-i)));
    [this.first, this.second].forEach((select, i) => {
      select.replaceChildren(...seen.map(({ name, title, caption }) => h("option", { value: name }, title ?? caption)));
      select.value = names.includes(kept[i]) ? kept[i] : usual[i];
    });
  }

  turn(mode) {
    this.mode = mode;
    Object.keys(MODES).forEach((each, i) => this.modes[i].setAttribute("aria-pressed", String(each === mode)));
    this.pair.hidden = mode === "side";
    this.gain.hidden = mode !== "difference";
    this.turning.hidden = this.swap.hidden = mode !== "flicker";
    this.run(mode === "flicker" && !still());
    this.draw();
  }

  scale(factor) {
    if (factor) this.zoom.by(factor);
    else this.zoom.reset();
  }

  /** Answers whether the key means anything here. */
  shortcut(key) {
    const mode = KEYS[key];
    if (mode) {
      if (!this.modes[Object.keys(MODES).indexOf(mode)].disabled) this.turn(mode);
    } else if (key === "+" || key === "=") this.scale(2);
    else if (key === "-") this.scale(0.5);
    else if (key === "0") this.scale(0);
    else return false;
    return true;
  }

  frame(name) {
    if (!this.frames.has(name)) {
      const frame = new Frame(name, () => this.zoomAll());
      this.frames.set(name, frame);
      this.zoom.listen(frame.box);
    }
    return this.frames.get(name);
  }

  draw() {
    const shown = { side: () => this.side(), difference: () => this.difference(), flicker: () => this.flicker() };
    const frames = shown[this.mode]();
    this.stage.dataset.count = String(frames.length);
    arrange(
      this.stage,
      frames.map(({ node }) => node),
    );
    this.zoomAll();
  }

  zoomAll() {
    this.zoom.over([...this.stage.querySelectorAll(".zoomable > :is(img, canvas)")]);
  }

  side() {
    return this.sources.map((source) => this.one(source));
  }

  /** The frame of one picture. */
  one(source) {
    const frame = this.frame(source.name);
    setText(frame.below, source.caption);
    if (source.canvas) frame.put(source.canvas);
    else if (!source.url) frame.put(noPicture(source.place));
    else frame.show(source);
    return frame;
  }

  get two() {
    return [this.first, this.second].map(({ value }) => this.sources.find(({ name }) => name === value));
  }

  difference() {
    const frame = this.frame("difference");
    if (frame.box.firstElementChild !== this.canvas) frame.put(this.canvas);
    this.asked += 1;
    this.subtract(frame, this.asked);
    const [a, b] = this.two;
    return [...(a === b ? [this.one(a)] : [this.one(a), this.one(b)]), frame];
  }

  async subtract(frame, asked) {
    const [a, b] = this.two;
    try {
      const [first, second] = await Promise.all([a, b].map(({ canvas, url }) => canvas ?? loaded(url)));
      if (asked !== this.asked) return;
      const { l2, largest } = drawDifference(this.canvas, first, second, Number(this.gain.value));
      const text = `difference: L2 ${measure(l2)}, at most ${measure(largest)}`;
      setText(frame.below, text);
      this.canvas.setAttribute("aria-label", text);
    } catch {
      if (asked !== this.asked) return;
      setText(frame.below, "a picture could not be loaded");
    }
  }

  flicker() {
    const frame = this.frame("flicker");
    const pictures = this.two.map(({ canvas, url, caption }) => {
      if (!canvas) return h("img", { alt: caption, src: url, draggable: "false" });
      const copy = h("canvas", { width: canvas.width, height: canvas.height, role: "img", "aria-label": caption });
      copy.getContext("2d").drawImage(canvas, 0, 0);
      return copy;
    });
    frame.put(...pictures);
    this.flick(0);
    return [frame];
  }

  /** Show the other of the two. */
  flick(to = 1 - this.upper) {
    if (!this.node.isConnected) this.run(false);
    this.upper = to;
    const frame = this.frame("flicker");
    [...frame.box.children].forEach((picture, i) => picture.classList.toggle("away", i !== to));
    setText(frame.below, this.two[to].caption);
  }

  run(on) {
    clearInterval(this.timer);
    this.timer = on ? setInterval(() => this.flick(), EVERY_MS) : 0;
    setText(this.turning, on ? "Stop" : "Alternate");
  }
}
