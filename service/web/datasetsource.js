// Images of a data set as a source: which they are, and pictures of them.

import { imageUrl } from "./api.js";
import { h, setText } from "./dom.js";
import { fieldsOf, valuesOf } from "./fields.js";
import { Chosen, Picker } from "./pictures.js";

/** So many names of classes are shown at most. */
const CLASSES = 12;

/** Images of a data set: some, chosen by number or by their pictures, or a range, and of those only some. */
export class Dataset {
  constructor(schema, path, form, changed) {
    this.form = form;
    this.fields = fieldsOf(schema, path, form);
    this.by = Object.fromEntries(this.fields.map((field) => [field.name, field]));
    const { dataset, indices, slice, classes, random, seed } = this.by;
    const range = h("button", { type: "button", onclick: () => (this.turn(), changed()) });
    this.range = range;
    this.chosen = new Chosen((at) => this.edit((list) => list.toSpliced(at, 1), changed));
    this.picker = new Picker((index) => this.edit((list) => toggled(list, index), changed));
    const some = h(
      "details",
      {},
      h("summary", {}, "Only some of them"),
      h("div", { class: "entries" }, classes.node, random.node, seed.node),
    );
    this.nodes = [
      h("div", { class: "entries" }, dataset.node, indices.node, slice.node),
      h("p", { class: "buttons" }, range),
      this.chosen.node,
      this.picker.node,
      some,
    ];
  }

  /** Between images by number and a range of them. */
  turn() {
    this.listed = !this.listed;
    const { indices, slice } = this.by;
    if (!this.listed) this.before = indices.get();
    indices.set(this.listed ? (this.before ?? [0]) : undefined);
    if (this.listed) slice.set(undefined);
    this.show();
  }

  edit(change, changed) {
    this.by.indices.set(change(this.list()));
    changed();
  }

  list = () => (this.by.indices.get() ?? []).filter(Number.isSafeInteger);

  get = () => valuesOf(this.fields);

  set(value) {
    for (const field of this.fields) field.set(value?.[field.name]);
    this.listed = value?.indices !== undefined && value.indices !== null;
    this.show();
  }

  show() {
    const { indices, slice, dataset, classes, random } = this.by;
    indices.node.hidden = !this.listed;
    slice.node.hidden = this.listed;
    setText(this.range, this.listed ? "Take all, or a range" : "Choose one by one");
    const card = this.form.card("datasets", dataset.get());
    dataset.say(card?.title ?? "");
    const { classes: known = [] } = card ?? {};
    classes.say(`One a line: ${known.slice(0, CLASSES).join(", ")}${known.length > CLASSES ? ", …" : ""}`);
    this.picker.node.hidden = !this.listed;
    this.picker.show(card, new Set(this.list()));
    const filtered = !this.listed || classes.get() || random.get();
    if (!filtered) this.draw(this.list(), true);
    else if (this.drawnFor !== JSON.stringify(this.get())) this.chosen.show([]);
  }

  /** Which images a range or a draw comes to, as the service says. */
  drawn({ indices }) {
    const { classes, random } = this.by;
    if ((this.listed && !classes.get() && !random.get()) || !indices) return;
    this.drawnFor = JSON.stringify(this.get());
    this.draw(indices, false);
  }

  draw(indices, removable) {
    const name = this.by.dataset.get();
    const { size = 0 } = this.form.card("datasets", name) ?? {};
    const there = indices.map((index, at) => ({ index, at })).filter(({ index }) => index < size);
    this.chosen.show(
      there.map(({ index, at }) => ({ url: imageUrl(name, index), name: `#${index}`, at: removable ? at : null })),
    );
  }
}

const toggled = (list, index) => (list.includes(index) ? list.filter((each) => each !== index) : [...list, index]);
