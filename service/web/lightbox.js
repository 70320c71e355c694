// A dialog that fills the page: one thing of a row of them, looked at closely. Arrow keys go on to the next.

import { h, setText } from "./dom.js";
import { help } from "./keyboard.js";

/** What arrow keys mean something to by themselves. */
const OWN_KEYS = "input, select, textarea, [role=slider], .u-over";

const KEYS = [
  { key: "← →", label: "The item before, the next one" },
  { key: "Esc", label: "Close" },
];

export class Lightbox {
  /** `step(by)` asks for the next thing or the one before; `closed()` is called once it is shut. */
  constructor(label, { step, closed }) {
    this.title = h("h2");
    this.source = h("p", { class: "muted" });
    this.place = h("span", { class: "muted" });
    this.back = h("button", { type: "button", "aria-label": "Previous item", onclick: () => step(-1) }, "←");
    this.on = h("button", { type: "button", "aria-label": "Next item", onclick: () => step(1) }, "→");
    const shut = h("button", { type: "button", autofocus: true, onclick: () => this.node.close() }, "Close");
    this.body = h("div", { class: "lightbox-body" });
    const head = h("div", { class: "lightbox-head" }, h("div", {}, this.title, this.source));
    head.append(h("span", { class: "buttons push" }, this.place, this.back, this.on, shut));
    this.node = h("dialog", { class: "detail lightbox", "aria-label": label }, head, this.body);
    this.node.addEventListener("keydown", (event) => this.key(event, step));
    this.node.addEventListener("click", (event) => event.target === this.node && this.node.close());
    this.node.addEventListener("close", () => {
      this.node.remove();
      closed();
    });
  }

  /** `place` says which of how many this is, and is empty where there is nothing beside it. */
  open(title, source, place) {
    setText(this.title, title);
    setText(this.source, source);
    setText(this.place, place);
    this.back.hidden = this.on.hidden = !place;
    if (this.node.open) return;
    document.body.append(this.node);
    this.node.showModal();
  }

  key(event, step) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches(OWN_KEYS)) return;
    if (by) step(by);
    else if (event.key === "?") help([...KEYS, ...(this.keys ?? [])]);
    else if (!this.shortcut?.(event.key)) return;
    event.preventDefault();
  }
}
