// Which values a metric of an item may have: conditions that are added, and buttons that take each of them away.

import { h, setOptions } from "./dom.js";

/** As many as the API takes. */
const MOST = 4;
const SIGNS = ["<", "≤", ">", "≥", "="];
const inApi = (sign) => ({ "≤": "<=", "≥": ">=" })[sign] ?? sign;

/** The metric that a condition such as "ssim>=0.5" is about. */
export const nameIn = (condition) => /^[^<>=]*/.exec(condition)[0];

const HOLDS = {
  "<": (a, b) => a < b,
  "<=": (a, b) => a <= b,
  ">": (a, b) => a > b,
  ">=": (a, b) => a >= b,
  "=": (a, b) => a === b,
};

/** Whether an item is as a condition says. */
export function holds({ metrics }, condition) {
  const [, name, sign, value] = /^([^<>=]*)(<=|>=|<|>|=)(.*)$/.exec(condition) ?? [];
  return typeof metrics?.[name] === "number" && HOLDS[sign](metrics[name], Number(value));
}

export class Where {
  /** `changed(conditions)` hears of all, in the words of the API. */
  constructor(changed) {
    Object.assign(this, { changed, conditions: [] });
    this.name = h("select", { onchange: () => this.choose() });
    this.sign = h("select", { "aria-label": "How it compares" }, ...SIGNS.map((sign) => h("option", { value: inApi(sign) }, sign)));
    this.value = h("input", { type: "number", step: "any", required: true, "aria-label": "Value to compare with", class: "where-value" });
    this.rest = h("span", { class: "where", hidden: true }, this.sign, this.value, h("button", {}, "Filter"));
    this.form = h("form", { class: "where", onsubmit: (event) => this.add(event) }, h("label", { class: "field" }, "Only where", this.name), this.rest);
    this.list = h("span", { class: "where" });
    this.nodes = [this.form, this.list];
  }

  /** `metrics` are pairs of a name and how it is called. */
  show(metrics, conditions) {
    this.conditions = conditions;
    this.form.hidden = metrics.length === 0 || conditions.length >= MOST;
    setOptions(this.name, [["", "any value"], ...metrics], this.name.value);
    const labels = new Map(metrics);
    const text = JSON.stringify([conditions, metrics]);
    if (this.list.dataset.shown === text) return;
    this.list.dataset.shown = text;
    this.list.replaceChildren(...conditions.map((each) => this.taken(each, labels.get(nameIn(each)) ?? nameIn(each))));
  }

  taken(condition, label) {
    const said = label + condition.slice(nameIn(condition).length).replace(/^(<=|>=|<|>|=)/, (sign) => ` ${SIGNS.find((each) => inApi(each) === sign)} `);
    const left = () => this.changed(this.conditions.filter((each) => each !== condition));
    return h("button", { type: "button", "aria-label": `No longer only where ${said}`, onclick: left }, `${said} ×`);
  }

  choose() {
    this.rest.hidden = !this.name.value;
    if (this.name.value) this.value.focus();
  }

  add(event) {
    event.preventDefault();
    const condition = `${this.name.value}${this.sign.value}${this.value.valueAsNumber}`;
    this.name.value = this.value.value = "";
    this.choose();
    this.changed([...new Set([...this.conditions, condition])]);
  }
}
