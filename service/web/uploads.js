// Images from the viewer's own disk, and pictures that are drawn: fields of lists that are chosen, not typed.

import { uploadedUrl, uploadImage } from "./api.js";
import { h, setText } from "./dom.js";
import { plural } from "./format.js";
import { Field } from "./inputs.js";
import { Chosen } from "./pictures.js";
import { sketch } from "./sketches.js";
import { announce } from "./ui.js";
import { keepName, uploadedName } from "./uploadnames.js";

const TAKEN = ".png,.jpg,.jpeg,.webp,.npy";

/** A list of which entries can be taken out again. */
class Shown extends Field {
  constructor(...args) {
    super(...args);
    this.values = [];
    this.chosen = new Chosen((at) => this.put(this.values.toSpliced(at, 1)));
  }

  put(values) {
    this.set(values);
    this.changed();
  }

  get = () => (this.values.length ? this.values : undefined);
}

/** Images that are uploaded when they are chosen or dropped; a request names them by their digests. */
export class Uploads extends Shown {
  constructor(...args) {
    super(...args);
    this.plain = new Map();
    this.input = h("input", { ...this.control(), type: "file", multiple: true, accept: TAKEN, class: "unseen" });
    this.input.addEventListener("change", () => this.upload([...this.input.files]));
    const zone = h(
      "label",
      { class: "drop" },
      this.input,
      h("strong", {}, "Choose images"),
      " or drop them here: PNG, JPEG, WebP, or .npy",
    );
    this.news = h("p", { class: "hint", role: "status" });
    this.refused = h("ul", { class: "problem" });
    this.say("");
    this.node = h(
      "div",
      { class: "entry entry-wide", "data-field": this.path },
      zone,
      this.news,
      this.refused,
      this.chosen.node,
      this.problem,
    );
  }

  /** One after the other, in their order. One that the service does not take is named, and the others go on. */
  async upload(files) {
    this.refused.replaceChildren();
    for (const [i, file] of files.entries()) {
      setText(this.news, `Uploading ${i + 1} of ${files.length}…`);
      try {
        const { id, media_type: type } = await uploadImage(file);
        keepName(id, file.name);
        this.plain.set(id, type.startsWith("image/"));
        this.put([...this.values, id]);
      } catch (error) {
        this.refused.append(h("li", {}, `${file.name}: ${error.message}`));
      }
    }
    setText(this.news, "");
    this.input.value = "";
    announce(`${plural(this.values.length, "image")} chosen`);
  }

  set(value) {
    this.values = Array.isArray(value) ? value : [];
    this.chosen.show(
      this.values.map((id, at) => ({ url: (this.plain.get(id) ?? true) ? uploadedUrl(id) : null, name: uploadedName(id), at })),
    );
  }
}

/** Kinds of pictures; a press adds one, as often as wanted. */
export class Patterns extends Shown {
  constructor(name, path, plain, form, kinds) {
    super(name, path, plain, form);
    const buttons = kinds.map((kind) =>
      h(
        "button",
        { type: "button", class: "tile", "aria-label": `Add ${kind}`, onclick: () => this.put([...this.values, kind]) },
        sketch(kind),
        kind,
      ),
    );
    const group = h("div", { class: "tiles", role: "group", "aria-label": "Add a pattern" }, ...buttons);
    this.say("Sketches of the kinds; each picture is drawn from the seed and its number. A press adds one.");
    this.node = h(
      "div",
      { class: "entry entry-wide", "data-field": path },
      group,
      this.hint,
      h("p", { class: "legend" }, "Chosen"),
      this.chosen.node,
      this.problem,
    );
  }

  set(value) {
    this.values = Array.isArray(value) ? value : [];
    this.chosen.show(this.values.map((kind, at) => ({ url: null, name: `#${at} ${kind}`, at, kind })));
  }
}
