// Which jobs the list shows: a form, kept in the address in the API's own words. Beside those, `state=active` stands for
// every state that is not final, and a day for its first moment, UTC.

import { h } from "./dom.js";
import { isFinal, stateLabel, STATES } from "./format.js";
import { kindName } from "./rows.js";

const FIELDS = ["state", "kind", "text", "label", "created_after", "created_before"];
const MORE = ["label", "created_after", "created_before"];
const ACTIVE = Object.keys(STATES).filter((state) => !isFinal(state));
const KINDS = [
  "inversion", "radius_sweep", "interpolation", "feature_visualization", "feature_manipulation", "recipe", "training",
  "evaluation", "activating_images", "model_registration", "dataset_registration",
];
const DAY = /^\d{4}-\d\d-\d\d$/;
const PAUSE_MS = 250;

/** What there is in a query that is a filter, in one order, so that equal filters are equal texts. */
export function canonical(search) {
  const given = new URLSearchParams(search);
  const pairs = FIELDS.flatMap((name) => given.getAll(name).map((value) => [name, value.trim()]));
  return new URLSearchParams(pairs.filter(([, value]) => value)).toString();
}

/** The same as the API takes it: a list for each name. */
export function asked(query) {
  const given = new URLSearchParams(query);
  const moment = (value) => (DAY.test(value) ? `${value}T00:00:00Z` : value);
  const found = Object.fromEntries(FIELDS.map((name) => [name, given.getAll(name).map(moment)]));
  found.state = found.state.flatMap((state) => (state === "active" ? ACTIVE : [state]));
  return found;
}

/** A query without the filters that were refused, and those as pairs. `errors` are the API's, by field. */
export function without(query, errors) {
  const fields = errors.map(({ field }) => String(field).split("."));
  const pairs = [...new URLSearchParams(query)];
  const wrong = pairs.filter(([name]) => fields.some((field) => field.includes(name)));
  const few = wrong.filter(([name, value]) => name !== "state" || !(value in STATES || value === "active"));
  const left = pairs.filter((pair) => !(few.length ? few : wrong).includes(pair));
  return [new URLSearchParams(left).toString(), few.length ? few : wrong];
}

export class Filters {
  /** `go(query, typing)` is called with every choice; `typing` says that it may be one letter of many. */
  constructor(form, more, go) {
    this.form = form;
    this.more = more;
    const option = (value, text) => h("option", { value }, text);
    const states = Object.keys(STATES).map((state) => option(state, stateLabel(state)));
    form.elements.state.append(option("", "All"), option("active", "active"), ...states);
    form.elements.kind.append(option("", "All"), ...KINDS.map((kind) => option(kind, kindName(kind))));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", ({ target }) => target.name !== "text" && go(this.query(), false));
    form.elements.text.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => go(this.query(), true), PAUSE_MS);
    });
  }

  query() {
    clearTimeout(this.timer);
    const pairs = FIELDS.flatMap((name) => this.form.elements[name].value.split(",").map((value) => [name, value]));
    return canonical(new URLSearchParams(pairs));
  }

  /** Show what a query says; what none of the choices stands for becomes one. */
  show(query) {
    const given = new URLSearchParams(query);
    for (const name of FIELDS) {
      const field = this.form.elements[name];
      const value = given.getAll(name).join(",");
      if (field.value.trim() === value) continue; // no space is taken from who is typing
      field.value = value;
      if (field.value !== value && field.tagName === "SELECT") {
        field.append(h("option", { value }, given.getAll(name).map(stateLabel).join(" or ")));
        field.value = value;
      }
    }
    if (MORE.some((name) => given.has(name))) this.more.open = true;
  }
}
