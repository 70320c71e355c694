// The frames that were kept of a search: a slider over them, and the one that it stands at.

import { h, setAttribute, setText } from "./dom.js";
import { count } from "./format.js";
import { drawFrame, loaded } from "./pixels.js";

const EVERY_MS = 90;

export class Frames {
  /** `moved()` is called as another frame is drawn on `canvas`. */
  constructor(moved) {
    this.moved = moved;
    this.canvas = h("canvas", { role: "img" });
    this.slider = h("input", { type: "range", min: 0, "aria-label": "Frame", oninput: () => this.draw() });
    this.said = h("output", {});
    this.button = h("button", { type: "button", onclick: () => this.play(!this.timer) }, "Play");
    this.node = h("div", { class: "frame-strip" }, this.button, this.slider, this.said);
    this.node.hidden = true;
  }

  /** Show the frames of a sheet; `steps` are those that they were kept before. Answers whether there are any. */
  async show(url, steps) {
    this.play(false);
    this.node.hidden = true;
    this.url = url;
    if (!url || !steps?.length) return false;
    const sheet = await loaded(url);
    if (url !== this.url) return false;
    Object.assign(this, { sheet, steps });
    this.slider.max = String(steps.length - 1);
    this.slider.value = this.slider.max;
    this.node.hidden = false;
    this.draw();
    return true;
  }

  draw() {
    const index = Number(this.slider.value);
    drawFrame(this.canvas, this.sheet, this.steps.length, index);
    this.caption = `step ${count(this.steps[index])}`;
    setText(this.said, `${this.caption} of ${count(this.steps.at(-1))}`);
    setAttribute(this.slider, "aria-valuetext", this.said.textContent);
    setAttribute(this.canvas, "aria-label", this.caption);
    this.moved();
  }

  /** Play from where it stands, or from the beginning if that is the end. */
  play(on) {
    clearInterval(this.timer);
    this.timer = on ? setInterval(() => this.next(), EVERY_MS) : 0;
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
