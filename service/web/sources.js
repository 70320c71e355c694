// A source of images: where they come from, and which they are.

import { uploadManifest } from "./api.js";
import { Dataset } from "./datasetsource.js";
import { h, setText } from "./dom.js";
import { fieldsOf, valuesOf } from "./fields.js";
import { Field } from "./inputs.js";
import { swatch } from "./swatches.js";

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

/** A file that names many images, uploaded here. */
class Manifest {
  constructor(schema, path, form, changed) {
    this.fields = fieldsOf(schema, path, form);
    const [manifest] = this.fields;
    const said = h("span", { class: "muted", role: "status" });
    const file = h("input", {
      type: "file",
      accept: ".jsonl,.csv",
      "aria-label": "Upload a manifest, JSON lines or CSV",
    });
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
    this.nodes = [
      h("p", { class: "buttons" }, file, said),
      h("div", { class: "entries" }, ...this.fields.map(({ node }) => node)),
    ];
  }
}

/** A source that is a few fields, with a picture of it where it is drawn from them. */
class Plain {
  constructor(schema, path, form) {
    this.fields = fieldsOf(schema, path, form);
    this.swatch = swatch(schema.properties.source.const);
    this.nodes = [h("div", { class: "entries" }, this.swatch?.node, ...this.fields.map(({ node }) => node))];
  }

  show() {
    this.swatch?.show(valuesOf(this.fields));
  }
}

export class Source extends Field {
  /** What is drawn is shown by the service's answer, also where the request says what to draw from. */
  follows = true;

  constructor(name, path, plain, form, open) {
    super(name, path, plain, form);
    this.variants = form.schemas.variants(plain);
    this.kept = {};
    this.select = h("select", this.control({ "aria-label": `Source of ${this.label.toLowerCase()}` }));
    this.select.addEventListener("change", () => this.choose(this.select.value));
    if (open) this.select.append((this.open = h("option", { value: "" }, plain.nullable ? "None" : "As usual")));
    this.select.append(...Object.keys(this.variants).map((each) => h("option", { value: each }, KINDS[each] ?? each)));
    this.body = h("div", { class: "source" });
    const head = h(
      "div",
      { class: "source-head" },
      h("span", { class: "legend", id: `${this.id}-name` }, this.label),
      this.select,
    );
    this.node = h(
      "fieldset",
      { class: "set", "aria-labelledby": `${this.id}-name`, "data-field": path },
      head,
      this.hint,
      this.body,
      this.problem,
    );
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
    this.source = this.variants[value?.source] ? value.source : this.open ? "" : Object.keys(this.variants)[0];
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
