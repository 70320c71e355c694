// A feature added to an image: before and after in one frame, parted by a slider.

import { arrange, h, setText } from "./dom.js";
import { measure, plural } from "./format.js";
import { itemName } from "./picture.js";
import { grouped, More, panel, Shot, slider } from "./shots.js";

const FEW = 24;
const HALF = 50;
const ABOUT = "a slider uncovers the result from the left";

const say = (shown) => (shown === 0 ? "before" : shown === 100 ? "after" : `${shown} % after`);

function outcome({ metrics, error }) {
  if (error) return String(error.title);
  if (!metrics) return "";
  const { start_activation: from, activation: to, reached, steps_taken: steps, prediction } = metrics;
  const words = [`${measure(from)} → ${measure(to)}`];
  if (reached !== undefined && reached !== null)
    words.push(`${reached ? "✓ after" : "✗ not in"} ${plural(steps, "step")}`);
  if (prediction) words.push(`predicts ${prediction}`);
  return words.join(" · ");
}

/** The result over the start, as far as it is uncovered. */
class Wipe {
  constructor(name) {
    this.name = name;
    this.before = new Shot();
    this.after = new Shot();
    const frame = h("span", { class: "frame wipe" }, this.before.image, this.after.image);
    this.after.image.className = "after";
    this.node = h("span", { class: "picture" }, frame, this.after.caption);
    this.frame = frame;
  }

  show(item) {
    const name = itemName(item);
    this.before.show(item, "start.png", "", `${name}, before`);
    this.after.show(item, "result.png", [this.name, outcome(item)].filter(Boolean).join(": "), `${name}, after`);
  }
}

class Card {
  constructor() {
    this.wipes = [];
    this.title = h("h3");
    this.pictures = h("div", { class: "pictures large" });
    this.slider = slider("", { max: 100, value: HALF, say, onmove: (shown) => this.move(shown) });
    this.node = h("article", { class: "manipulation" }, this.title, this.pictures, this.slider.node);
  }

  /** `found` are pairs of a name and an item, one for each network. */
  show(found) {
    const name = itemName(found[0][1]);
    setText(this.title, name);
    this.slider.input.setAttribute("aria-label", `Before and after, ${name}`);
    found.forEach(([network, item], i) => {
      this.wipes[i] ??= new Wipe(found.length > 1 ? network : "");
      this.wipes[i].show(item);
    });
    arrange(
      this.pictures,
      this.wipes.map(({ node }) => node),
    );
  }

  move(shown) {
    this.slider.set(shown);
    for (const { frame } of this.wipes) frame.style.setProperty("--shown", `${shown}%`);
  }
}

export class Manipulations {
  constructor() {
    this.shown = HALF;
    this.cards = new More(FEW, () => {
      const card = new Card();
      queueMicrotask(() => card.move(this.shown));
      return card;
    });
    this.cards.list.classList.add("manipulations");
    const onmove = (shown) => this.move(shown);
    this.slider = slider("All of them", { max: 100, value: HALF, say, onmove });
    this.node = panel("Before and after", ABOUT, h("div", { class: "sticky" }, this.slider.node), this.cards.node);
  }

  show(parts) {
    const pairs = parts.flatMap(({ name, items }) => items.map((item) => [name, item]));
    this.cards.show([...grouped(pairs, ([, item]) => item.index)]);
  }

  move(shown) {
    this.shown = shown;
    for (const card of this.cards.made.values()) card.move(shown);
  }
}
