// Which class was taken for which, clean and under each attack, and the images that a number counts.

import { getText, imageUrl } from "./api.js";
import { parseCsv } from "./csv.js";
import { h } from "./dom.js";
import { count, plural } from "./format.js";
import { artifact, plainPicture } from "./picture.js";
import { dataTable, wideTable } from "./tables.js";
import { announce, refusal } from "./ui.js";

const CLEAN = "no attack";
/** More classes than these stand in a list of the commonest confusions: a table of them could not be read. */
const SQUARE = 24;
const LISTED = 50;
const SHOWN = 48;
const LEGEND = "Rows: the label. Columns: what it was taken for. A number leads to its images.";

class Confusions {
  constructor(job, item, summary, classes) {
    const { confusion, attacks } = summary;
    this.job = job;
    this.url = artifact(item, "images.csv")?.url;
    this.names = new Map(summary.classes.map((each) => [each.class, each.label]));
    classes.forEach((name, place) => this.names.set(place, name));
    this.found = new Map([[CLEAN, confusion.clean]]);
    attacks.forEach(({ name }, i) => this.found.set(String(name), confusion.attacks[i]));
    const options = [...this.found.keys()].map((name) => h("option", {}, name));
    this.attack = h("select", { onchange: () => this.draw() }, ...options);
    this.place = h("div");
    this.images = h("div", { class: "confused" });
    const field = h("label", { class: "field" }, "Attack", this.attack);
    const title = h("div", { class: "title-row" }, h("h2", {}, "Taken for"), field);
    this.node = h("section", {}, title, this.place, h("p", { class: "muted legend" }, LEGEND), this.images);
    this.draw();
  }

  name(place) {
    return String(this.names.get(place) ?? place);
  }

  draw() {
    this.images.replaceChildren();
    const found = this.found.get(this.attack.value);
    const classes = [...new Set(found.flatMap(([label, prediction]) => [label, prediction]))].sort((a, b) => a - b);
    this.place.replaceChildren(classes.length > SQUARE ? this.list(found) : this.square(found, classes));
  }

  /** A number that shows its images; `share` of the row shades it. */
  cell(label, prediction, n, share = 0) {
    const [is, taken] = [this.name(label), this.name(prediction)];
    const told = { "aria-label": `${plural(n, "image")} of ${is} taken for ${taken}`, onclick: () => this.show(is, taken) };
    const node = h("button", { type: "button", class: "shade", "data-right": label === prediction, ...told }, count(n));
    node.style.setProperty("--share", String(share));
    return node;
  }

  square(found, classes) {
    const images = new Map(found.map(([label, prediction, n]) => [`${label}/${prediction}`, n]));
    const rows = [...new Set(found.map(([label]) => label))].map((label) => {
      const row = classes.map((prediction) => images.get(`${label}/${prediction}`) ?? 0);
      const all = row.reduce((sum, n) => sum + n, 0);
      return [this.name(label), ...row.map((n, i) => (n ? this.cell(label, classes[i], n, n / all) : "·"))];
    });
    const table = wideTable(`Confusions, ${this.attack.value}`, ["Class", ...classes.map((place) => this.name(place))], rows);
    table.classList.add("square");
    return table;
  }

  list(found) {
    const wrong = found.filter(([label, prediction]) => label !== prediction).sort((a, b) => b[2] - a[2]);
    const rows = wrong.slice(0, LISTED).map(([is, taken, n]) => [this.name(is), this.name(taken), this.cell(is, taken, n)]);
    return dataTable(`Commonest confusions, ${this.attack.value}`, ["Class", "Taken for", "Images"], rows);
  }

  /** The images of class `is` that were taken for `taken`; what became of each is fetched when it is first asked for. */
  async show(is, taken) {
    try {
      this.rows ??= parseCsv(await getText(this.url));
      const column = this.attack.value === CLEAN ? "clean" : this.attack.value;
      const found = this.rows.filter((row) => row.label === is && row[column] === taken);
      const pictures = found.slice(0, SHOWN).map(({ index }) =>
        plainPicture(imageUrl(this.job.parameters.dataset, index), `#${index}`, `image ${index}, ${is} taken for ${taken}`),
      );
      const title = `${is} taken for ${taken}`;
      const few = found.length > SHOWN ? `the first ${SHOWN} of ${count(found.length)}` : plural(found.length, "image");
      this.images.replaceChildren(h("h3", {}, title, " ", h("small", { class: "muted" }, few)), h("div", { class: "pictures gallery" }, ...pictures));
      announce(`${title}: ${few}`);
    } catch (error) {
      this.images.replaceChildren(refusal(error));
    }
  }
}

/** The confusions of an evaluation's summary; `classes` are the network's, by place, where they are known. */
export const confusions = (job, item, summary, classes) => new Confusions(job, item, summary, classes).node;
