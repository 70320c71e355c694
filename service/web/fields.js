// Fields of several values, and which kind of field a schema becomes.

import { h } from "./dom.js";
import { Check, Choice, Field, Text } from "./inputs.js";
import { Source } from "./sources.js";
import { Patterns, Uploads } from "./uploads.js";

/** Fields whose text is written in a way of its own, and how many lines it usually has. */
const WRITTEN = {
  combinations: ["combinations", 2],
  deadline: ["time", 1, { type: "datetime-local", step: 1 }],
  description: ["text", 2],
  labels: ["pairs", 2],
  metadata: ["json", 2],
  retention_seconds: ["days", 1],
};
/** Fields that name something in a registry. */
export const REGISTRY = {
  ...{ model: "models", baseline: "models", other: "models", judge: "models", twin: "models" },
  ...{ dataset: "datasets", validation: "datasets", architecture: "architectures" },
};
/** An object: a field for each of its properties. */
class Group extends Field {
  constructor(name, path, plain, form) {
    super(name, path, plain, form);
    this.fields = fieldsOf(plain, path, form);
    const legend = h("legend", {}, this.label);
    const inner = h("div", { class: "entries" }, ...this.fields.map(({ node }) => node));
    this.node = h("fieldset", { class: "set", "data-field": path }, legend, this.hint, inner, this.problem);
  }

  get = () => valuesOf(this.fields);

  set(value) {
    for (const field of this.fields) {
      field.usual(this.form.schemas.plain(this.plain.properties[field.name]).default);
      field.set(value?.[field.name]);
    }
  }
}

/** Several values of a kind, one below the other. */
class List extends Field {
  constructor(name, path, plain, form) {
    super(name, path, plain, form);
    this.rows = h("div", { class: "rows" });
    const add = h("button", { type: "button", onclick: () => this.add() }, `Add to ${this.label.toLowerCase()}`);
    const legend = h("legend", {}, this.label);
    this.node = h("fieldset", { class: "set", "data-field": path }, legend, this.hint, this.rows, add, this.problem);
    this.set(plain.default);
  }

  get() {
    const values = this.entries.map(({ field }) => field.get());
    return JSON.stringify(values) === JSON.stringify(this.plain.default) ? undefined : values;
  }

  set(value) {
    this.entries = [];
    this.fill(Array.isArray(value) ? value : (this.plain.default ?? []));
  }

  /** Make the rows anew, since their paths count them. */
  fill(values) {
    const one = this.label.replace(/s$/, "");
    this.entries = values.map((value, i) => {
      const field = makeField(`${one} ${i + 1}`, `${this.path}.${i}`, this.plain.items, true, this.form);
      field.set(value);
      const remove = h("button", { type: "button", "aria-label": `Remove ${one} ${i + 1}` }, "Remove");
      remove.addEventListener("click", () => this.change((all) => all.toSpliced(i, 1)));
      return { field, node: h("div", { class: "row" }, field.node, remove) };
    });
    this.rows.replaceChildren(...this.entries.map(({ node }) => node));
  }

  change(edit) {
    this.fill(edit(this.entries.map(({ field }) => field.get())));
    this.changed();
  }

  add = () => this.change((all) => [...all, this.form.usualFor(this.plain.items)]);
}

/** A field that is said only if asked for. */
class Optional extends Field {
  constructor(name, path, plain, form, inner) {
    super(name, path, plain, form);
    this.inner = inner;
    this.box = h("input", this.control({ type: "checkbox", onchange: () => this.turn() }));
    this.frame();
    this.node.firstChild.prepend(this.box);
    this.node.classList.add("entry-check", "entry-wide");
    this.node.append(inner.node);
    inner.hint.remove();
    inner.node.querySelector("legend").className = "unseen";
    inner.node.removeAttribute("data-field");
    this.set(undefined);
  }

  /** A list that is asked for begins with one entry: none at all is another wish, which is said by removing it. */
  turn() {
    if (this.box.checked && this.inner.entries?.length === 0) this.inner.add();
    this.show();
    this.changed();
  }

  show() {
    this.inner.node.hidden = !this.box.checked;
  }

  get = () => (this.box.checked ? (this.inner.get() ?? []) : undefined);

  set(value) {
    this.box.checked = value !== undefined && value !== null;
    this.inner.set(value ?? undefined);
    this.show();
  }
}

/** The values that are said, by name. */
export const valuesOf = (fields) =>
  Object.fromEntries(fields.map((field) => [field.name, field.get()]).filter(([, value]) => value !== undefined));

/** A field for each property, but for constants, which the form knows, and one radius where there are many. */
export const fieldsOf = ({ properties, required = [] }, path, form) =>
  Object.entries(properties)
    .filter(([name, schema]) => schema.const === undefined && !(name === "eps" && properties.radii))
    .map(([name, schema]) => makeField(name, path ? `${path}.${name}` : name, schema, required.includes(name), form));

export function makeField(name, path, schema, required, form) {
  const plain = form.schemas.plain(schema);
  const open = !required && (plain.default === undefined || plain.default === null);
  const text = (...how) => new Text(name, path, plain, form, how);
  if (form.schemas.isSource(plain)) return new Source(name, path, plain, form, open);
  if (WRITTEN[name]) return text(...WRITTEN[name]);
  if (plain.enum) return new Choice(name, path, plain, form, plain.enum, open);
  if (plain.type === "boolean")
    return open ? new Choice(name, path, plain, form, [true, false], open) : new Check(name, path, plain, form);
  if (plain.type === "string" && REGISTRY[name])
    return new Choice(name, path, plain, form, form.names(REGISTRY[name]), open);
  if (plain.type === "string") return text("text");
  if (plain.type === "number" || plain.type === "integer") return text("number");
  if (plain.type === "object")
    return path && !required ? optional(name, path, plain, form, Group) : new Group(name, path, plain, form);
  const items = form.schemas.plain(plain.items);
  if (items.enum) return new Patterns(name, path, plain, form, items.enum);
  if (items.pattern?.includes("sha256")) return new Uploads(name, path, plain, form);
  if (items.type === "integer") return text("integers");
  if (items.type === "number") return text("numbers");
  if (items.type === "string") return text("lines", 3);
  return open ? optional(name, path, plain, form, List) : new List(name, path, plain, form);
}

const optional = (name, path, plain, form, Inner) =>
  new Optional(name, path, plain, form, new Inner(name, path, { ...plain, default: undefined }, form));
