// A source of images: where they come from, which they are, and pictures of them.

import { imageUrl, uploadManifest } from "./api.js";
import { h, setText } from "./dom.js";
import { fieldsOf, valuesOf } from "./fields.js";
import { count } from "./format.js";
import { Field } from "./inputs.js";
import { Chosen, Picker } from "./pictures.js";

const KINDS = {
  dataset: "Data set",
  images: "Upload",
  patterns: "Patterns",
  mixed: "Several of these",
  prefix: "Folder of the bucket",
  manifest: "List of many (manifest)",
  noise: "Noise",
  gray: "Gray",
  other_target: "The next target",
  blend: "Pixel blend of the pair",
};

const CLASSES = 12;

/** Images of a data set: some, chosen by number or by their pictures, or a range, and of those only some. */
class Dataset {
  constructor(schema, path, form, changed) {
    this.form = form;
    this.fields = fieldsOf(schema, path, form);
    this.by = Object.fromEntries(this.fields.map((field) => [field.name, field]));
    const { dataset, indices, slice, classes, random, seed } = this.by;
    const range = h("button", { type: "button", onclick: () => (this.turn(), changed()) });
    this.range = range;
    this.chosen = new Chosen((at) => this.edit((list) => list.toSpliced(at, 1), changed));
    this.picker = new Picker((index) => this.edit((list) => toggled(list, index), changed));
    const some = h("details", {}, h("summary", {}, "Only some of them"), h("div", { class: "entries" }, classes.node, random.node, seed.node));
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
    dataset.say(card ? `${card.title}; ${count(card.size)} images` : "");
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
    this.chosen.show(there.map(({ index, at }) => ({ url: imageUrl(name, index), name: `#${index}`, at: removable ? at : null })));
  }
}

const toggled = (list, index) => (list.includes(index) ? list.filter((each) => each !== index) : [...list, index]);

/** A file that names many images, uploaded here. */
class Manifest {
  constructor(schema, path, form, changed) {
    this.fields = fieldsOf(schema, path, form);
    const [manifest] = this.fields;
    const said = h("span", { class: "muted", role: "status" });
    const file = h("input", { type: "file", accept: ".jsonl,.csv", "aria-label": "Upload a manifest, JSON lines or CSV" });
    file.addEventListener("change", async () => {
      setText(said, "uploading…");
      try {
        manifest.set((await uploadManifest(file.files[0])).id);
        setText(said, "uploaded");
        changed();
      } catch (error) {
        setText(said, error.message);
      }
    });
    this.nodes = [h("p", { class: "buttons" }, file, said), h("div", { class: "entries" }, ...this.fields.map(({ node }) => node))];
  }
}

class Plain {
  constructor(schema, path, form) {
    this.fields = fieldsOf(schema, path, form);
    this.nodes = [h("div", { class: "entries" }, ...this.fields.map(({ node }) => node))];
    this.level = schema.properties.level && h("span", { class: "frame swatch" });
    if (this.level) this.nodes.unshift(this.level);
  }

  show() {
    const level = this.fields.find(({ name }) => name === "level")?.get() ?? 0.5;
    if (this.level) this.level.style.background = `rgb(${Array(3).fill(Math.round(255 * level)).join(" ")})`;
  }
}

export class Source extends Field {
  constructor(name, path, plain, form, open) {
    super(name, path, plain, form);
    this.variants = form.schemas.variants(plain);
    this.kept = {};
    this.select = h("select", this.control({ "aria-label": `Source of ${this.label.toLowerCase()}` }));
    this.select.addEventListener("change", () => this.choose(this.select.value));
    if (open) this.select.append((this.open = h("option", { value: "" }, plain.nullable ? "None" : "As usual")));
    this.select.append(...Object.keys(this.variants).map((each) => h("option", { value: each }, KINDS[each] ?? each)));
    this.body = h("div", { class: "source" });
    const head = h("div", { class: "source-head" }, h("legend", {}, this.label), this.select);
    this.node = h("fieldset", { class: "set", "data-field": path }, head, this.hint, this.body, this.problem);
    if (this.variants.images) this.receive();
    this.set(open ? undefined : { source: Object.keys(this.variants)[0] });
  }

  /** Files dropped anywhere on the source become its uploads. */
  receive() {
    const over = (on) => (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      event.stopPropagation();
      this.node.classList.toggle("dropping", on);
    };
    this.node.addEventListener("dragover", over(true));
    this.node.addEventListener("dragleave", over(false));
    this.node.addEventListener("drop", (event) => {
      over(false)(event);
      const files = [...(event.dataTransfer?.files ?? [])];
      if (files.length === 0) return;
      if (this.select.value !== "images") this.choose("images");
      this.part.fields.find(({ name }) => name === "images").upload(files);
    });
  }

  choose(source) {
    this.kept[this.source] = this.get();
    this.set(this.kept[source] ?? (source ? this.form.usualSource(source) : undefined));
    this.changed();
  }

  get = () => (this.source ? { source: this.source, ...valuesOf(this.part.fields) } : undefined);

  set(value) {
    this.source = this.variants[value?.source] ? value.source : (this.open ? "" : Object.keys(this.variants)[0]);
    this.select.value = this.source;
    this.part = null;
    if (this.source) this.build(value);
    this.body.replaceChildren(...(this.part?.nodes ?? []));
  }

  build(value) {
    const schema = this.variants[this.source];
    const Part = { dataset: Dataset, manifest: Manifest }[this.source] ?? Plain;
    const inner = Object.create(this.form, { changed: { value: () => (this.part?.show?.(), this.changed()) } });
    this.part = new Part(schema, this.path, inner, inner.changed);
    if (this.part.set) this.part.set(value);
    else for (const field of this.part.fields) field.set(value?.[field.name]);
    for (const field of this.part.fields) field.usual(this.form.schemas.plain(schema.properties[field.name]).default);
    this.part.show?.();
  }

  usual(value) {
    if (this.open && value?.source) setText(this.open, `${KINDS[value.source] ?? value.source} (as usual)`);
    if (value?.source === "dataset" && value.source === this.source) this.part.drawn(value);
  }
}
