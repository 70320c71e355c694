// Which fields stand where: what decides most first, images with their pictures, what is rarely touched folded.

import { h, setText } from "./dom.js";
import { words } from "./schema.js";

const FIRST = ["model", "architecture", "preset", "baseline", "other", "dataset", "validation"];
const DIRECTIONS = ["coordinates", "random_coordinates", "combinations", "noise_starts"];
const OFTEN = [
  ...[
    "eps",
    "radii",
    "lambdas",
    "step_size",
    "steps",
    "until",
    "threshold",
    "regularized_steps",
    "frames",
    "seed",
    "k",
  ],
  ...["norm", "attack_steps", "attack_step_size", "epochs", "batch_size", "lr", "name", "attacks", "images"],
];
const BESIDE = ["description", "labels", "priority", "deadline", "retention_seconds", "metadata"];

const inOrder = (names, fields) => names.map((name) => fields.find((field) => field.name === name)).filter(Boolean);

export class Sections {
  /** `kinds` can be chosen; `choose(id)` is told. */
  constructor(schemas, kinds, choose) {
    this.schemas = schemas;
    const groups = Map.groupBy(kinds, ({ group }) => group);
    this.kind = h("select", { id: "kind", "aria-describedby": "kind-hint", onchange: () => choose(this.kind.value) });
    for (const [label, each] of groups)
      this.kind.append(
        h("optgroup", { label }, ...each.map(({ id, label: text }) => h("option", { value: id }, text))),
      );
    this.about = h("p", { class: "hint", id: "kind-hint" });
    this.chooser = h("div", { class: "entry entry-kind" }, h("label", { for: "kind" }, "Kind"), this.kind, this.about);
    this.node = h("div", { class: "sections" });
  }

  /** Show the fields of a kind; answers them in the order in which they stand. */
  show({ id, schema }, fields) {
    this.kind.value = id;
    setText(this.about, (schema.description ?? "").replaceAll("`", "").replaceAll(/\s+/g, " "));
    const isImages = ({ plain }) => this.schemas.isSource(plain) || (plain.items && this.schemas.isSource(plain.items));
    const images = fields.filter(isImages);
    const others = fields.filter((field) => !images.includes(field));
    const parts = [FIRST, DIRECTIONS, OFTEN, BESIDE].map((names) => inOrder(names, others));
    const rest = others.filter((field) => !parts.flat().includes(field));
    const [first, directions, often, beside] = parts;
    this.folds = [this.fold("More parameters", rest), this.fold("Notes, priority, deadline", beside)];
    this.node.replaceChildren(
      h("section", { class: "panel entries", "aria-label": "What" }, this.chooser, ...first.map(({ node }) => node)),
      ...this.panel("Images", images, "sources"),
      ...this.panel("What to maximise", directions),
      ...this.panel("Parameters", often),
      ...this.folds.filter(({ fields: inside }) => inside.length).map(({ node }) => node),
    );
    return [...first, ...images, ...directions, ...often, ...rest, ...beside];
  }

  panel(title, fields, kind = "entries") {
    const inner = h("div", { class: kind }, ...fields.map(({ node }) => node));
    return fields.length ? [h("section", { class: "panel", "aria-label": title }, h("h2", {}, title), inner)] : [];
  }

  fold(title, fields) {
    const set = h("span", { class: "muted" });
    const inner = h("div", { class: "entries" }, ...fields.map(({ node }) => node));
    return { fields, set, node: h("details", { class: "panel" }, h("summary", {}, `${title} `, set), inner) };
  }

  /** Folded fields that say something are named where they are folded. */
  said() {
    for (const { fields, set } of this.folds) {
      const names = fields.filter((field) => field.get() !== undefined).map(({ name }) => words(name).toLowerCase());
      setText(set, names.join(", "));
    }
  }
}
