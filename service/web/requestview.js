// A request as what would be sent: JSON that can be edited, a command for the shell, and a program.

import { copy } from "./clipboard.js";
import { h, setText } from "./dom.js";
import { asCurl, asPython, written } from "./request.js";

const FORMS = { JSON: ({ body }) => written(body), curl: asCurl, Python: asPython };

/** `edited(body)` is told of each change that is JSON. */
export class RequestView {
  constructor(edited) {
    this.edited = edited;
    this.area = h("textarea", {
      id: "request-text",
      rows: 8,
      spellcheck: "false",
      class: "mono",
      "aria-label": "The request",
    });
    this.area.addEventListener("input", () => this.read());
    this.problem = h("p", { class: "problem", role: "status" });
    this.tabs = Object.keys(FORMS).map((name) =>
      h("button", { type: "button", "aria-pressed": "false", onclick: () => this.turn(name) }, name),
    );
    const copied = h(
      "button",
      { type: "button", class: "push", onclick: () => copy(this.area.value, `the request as ${this.form}`) },
      "Copy",
    );
    const bar = h(
      "div",
      { class: "buttons", role: "group", "aria-label": "Form of the request" },
      ...this.tabs,
      copied,
    );
    this.node = h(
      "section",
      { class: "panel request", "aria-label": "Request" },
      h("h2", {}, "Request"),
      bar,
      this.area,
      this.problem,
    );
    this.form = "JSON";
  }

  turn(name) {
    this.form = name;
    this.show(this.address, this.body);
  }

  show(address, body) {
    Object.assign(this, { address, body });
    for (const tab of this.tabs) tab.setAttribute("aria-pressed", String(tab.textContent === this.form));
    this.area.readOnly = this.form !== "JSON";
    setText(this.problem, "");
    this.area.value = FORMS[this.form]({ address, body });
  }

  read() {
    try {
      const body = JSON.parse(this.area.value);
      if (body === null || typeof body !== "object" || Array.isArray(body)) throw new Error("it is no object");
      setText(this.problem, "");
      this.body = body;
      this.edited(body);
    } catch (error) {
      setText(this.problem, `Not read yet: ${error.message}`);
    }
  }
}
