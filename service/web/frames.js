// The frames that were kept of searches: one slider over them all, and the ones that it stands at.

import { h, setAttribute, setText } from "./dom.js";
import { count } from "./format.js";
import { drawFrame, loaded } from "./pixels.js";

/** How long all frames are played, and one at least, in milliseconds. */
const ALL_MS = 3000;
const EVERY_MS = 120;

export class Frames {
  /** `moved(step)` is called as others are drawn, on the `canvas` of each of `shown`. */
  constructor(moved) {
    this.moved = moved;
    this.shown = [];
    this.slider = h("input", { type: "range", min: 0, "aria-label": "Frame", oninput: () => this.draw() });
    this.said = h("output", {});
    this.button = h("button", { type: "button", onclick: () => this.play(!this.timer) }, "Play");
    this.node = h("div", { class: "frame-strip" }, this.button, this.slider, this.said);
    this.node.hidden = true;
  }

  /** Show the frames of sheets, each a `url` and the `steps` that they were kept before. Answers whether it does. */
  async show(...sheets) {
    this.play(false);
    this.node.hidden = true;
    this.shown = [];
    this.asked = sheets;
    if (!sheets.length || !sheets.every(({ url, steps }) => url && steps?.length)) return false;
    const images = await Promise.all(sheets.map(({ url }) => loaded(url)));
    if (sheets !== this.asked) return false;
    const canvas = () => h("canvas", { role: "img" });
    this.shown = sheets.map(({ steps }, i) => ({ sheet: images[i], steps, canvas: canvas() }));
    this.steps = [...new Set(sheets.flatMap(({ steps }) => steps))].sort((a, b) => a - b);
    this.slider.max = String(this.steps.length - 1);
    this.slider.value = this.slider.max;
    this.node.hidden = false;
    this.draw();
    return true;
  }

  /** Of each its frame of the step, or the last before it. */
  draw() {
    const step = this.steps[Number(this.slider.value)];
    for (const each of this.shown) {
      const index = Math.max(0, each.steps.findLastIndex((own) => own <= step));
      drawFrame(each.canvas, each.sheet, each.steps.length, index);
      each.caption = `step ${count(each.steps[index])}`;
      setAttribute(each.canvas, "aria-label", each.caption);
    }
    setText(this.said, `step ${count(step)} of ${count(this.steps.at(-1))}`);
    setAttribute(this.slider, "aria-valuetext", this.said.textContent);
    this.moved(step);
  }

  /** Play from where it stands, or from the beginning if that is the end. */
  play(on) {
    clearInterval(this.timer);
    this.timer = on ? setInterval(() => this.next(), Math.max(EVERY_MS, ALL_MS / this.steps.length)) : 0;
    setText(this.button, on ? "Stop" : "Play");
    if (on && this.slider.value === this.slider.max) this.slider.value = "-1";
  }

  next() {
    if (!this.node.isConnected) return this.play(false);
    this.slider.value = String(Number(this.slider.value) + 1);
    this.draw();
    if (this.slider.value === this.slider.max) this.play(false);
  }
}
