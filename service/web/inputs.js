// Fields of one value. Every field has a node, get() for its value (undefined: not said), set(value), and usual(value),
// which shows what stands where nothing is said.

import { CODECS } from "./codecs.js";
import { h, setAttribute, setText } from "./dom.js";
import { words } from "./schema.js";

const HINTS = {
  attacks: "Not chosen: the preset's; an empty list: clean accuracy alone",
  combinations: "One a line: coordinates with weights, such as 3:1, 7:-0.5",
  coordinates: "Such as 0-7, 12",
  deadline: "When the job ends, whatever is still unfinished; in your time zone",
  indices: "Such as 0-7, 12",
  labels: "One a line, such as team=vision",
  lr_drops: "Epochs after which lr is multiplied by lr_factor",
  retention_seconds: "After its end; left out: for ever",
};
const NAMES = { retention_seconds: "Days kept", dataset: "Data set" };
/** Said even where it is the default, so that a request can be read by itself. */
const ALWAYS = ["preset"];

let made = 0;

/** What every field has: a label, a hint, a place for what is wrong with it. `form` is what it belongs to. */
export class Field {
  constructor(name, path, plain, form) {
    Object.assign(this, { name, path, plain, form, label: NAMES[name] ?? words(name) });
    this.id = `field-${(made += 1)}`;
    this.hint = h(
      "p",
      { class: "hint", id: `${this.id}-hint` },
      (HINTS[name] ?? plain.description ?? "").replaceAll("`", ""),
    );
    this.problem = h("p", { class: "problem", id: `${this.id}-problem` });
    this.changed = () => form.changed();
  }

  /** The attributes of the control. */
  control(others = {}) {
    return { id: this.id, "data-control": true, "aria-describedby": `${this.hint.id} ${this.problem.id}`, ...others };
  }

  frame(...nodes) {
    const label = h("label", { for: this.id }, this.label);
    this.node = h("div", { class: "entry", "data-field": this.path }, label, ...nodes, this.hint, this.problem);
  }

  say(text) {
    setText(this.hint, text);
  }

  usual() {}
}

export class Text extends Field {
  constructor(name, path, plain, form, [codec, lines = 1, others = {}]) {
    super(name, path, plain, form);
    this.codec = CODECS[codec];
    const attributes = this.control({ autocomplete: "off", spellcheck: "false", oninput: this.changed, ...others });
    this.input = h(lines > 1 ? "textarea" : "input", lines > 1 ? { rows: lines, ...attributes } : attributes);
    if (codec === "number") this.input.inputMode = "decimal";
    this.frame(this.input);
    if (name === "layer") this.suggest();
  }

  suggest() {
    const list = h("datalist", { id: `${this.id}-list` });
    this.input.setAttribute("list", list.id);
    this.node.append(list);
    this.input.addEventListener("focus", () => {
      const { layers = {} } = this.form.card("models", this.form.said("model")) ?? {};
      list.replaceChildren(...Object.keys(layers).map((value) => h("option", { value })));
    });
  }

  get = () => this.codec.parse(this.input.value);

  set(value) {
    try {
      this.input.value = value === undefined || value === null ? "" : this.codec.format(value);
    } catch {
      this.input.value = JSON.stringify(value); // of another type than the field's
    }
  }

  usual(value) {
    const none = value === undefined || value === null || value.length === 0;
    const brief = Array.isArray(value)
      ? value.map((each) => (typeof each === "number" ? Number(each.toPrecision(4)) : each))
      : value;
    setAttribute(this.input, "placeholder", none ? "" : this.codec.format(brief));
  }
}

/** One of several values. Where nothing may be said, the first choice says what stands then. */
export class Choice extends Field {
  constructor(name, path, plain, form, values, open) {
    super(name, path, plain, form);
    this.select = h("select", this.control({ onchange: this.changed }));
    this.values = values;
    if (open) this.select.append((this.open = h("option", { value: "" }, "–")));
    this.select.append(...values.map((value) => h("option", { value: JSON.stringify(value) }, shownAs(value))));
    this.frame(this.select);
    this.set(undefined);
  }

  get() {
    const value = this.select.value === "" ? undefined : JSON.parse(this.select.value);
    return value === this.plain.default && !ALWAYS.includes(this.name) ? undefined : value;
  }

  set(value = this.plain.default ?? undefined) {
    const text = value === undefined ? "" : JSON.stringify(value);
    const known = [...this.select.options].some((option) => option.value === text);
    if (!known && value !== undefined) this.select.append(h("option", { value: text }, shownAs(value)));
    if (known || value !== undefined) this.select.value = text;
  }

  usual(value) {
    if (this.open) setText(this.open, value === undefined || value === null ? "–" : `${shownAs(value)} (as usual)`);
  }
}

const shownAs = (value) => (value === true ? "yes" : value === false ? "no" : String(value));

export class Check extends Field {
  constructor(...args) {
    super(...args);
    this.box = h("input", this.control({ type: "checkbox", onchange: this.changed }));
    this.frame();
    this.node.firstChild.prepend(this.box);
    this.node.classList.add("entry-check");
    this.set(undefined);
  }

  get = () => (this.box.checked === this.plain.default ? undefined : this.box.checked);

  set(value = this.plain.default) {
    this.box.checked = value === true;
  }
}
