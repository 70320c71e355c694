// A list that is read from its first page on, live as long as no more than that is shown.

import { arrange, changes, h, setText } from "./dom.js";
import { plural } from "./format.js";
import { announce, refusal } from "./ui.js";

const PAGE = 100;

export class Paged {
  /**
   * `read(query, signal)` answers {rows, cursor}; `draw(rows)` answers a node. `choice` is {label, options}: a text for
   * each value of the API's parameter `name`. `word` is what an entry is called.
   */
  constructor(place, { name, choice, word, read, draw }) {
    Object.assign(this, { name, word, read, draw });
    this.news = changes();
    this.turn = 0; // how often something was chosen: what was asked for before comes too late
    const options = Object.entries(choice.options).map(([value, text]) => h("option", { value }, text));
    this.chosen = h("select", { onchange: () => this.attempt(() => this.load()) }, ...options);
    this.problem = h("div", { role: "status" });
    this.table = h("div");
    this.more = h("button", { type: "button", hidden: true, onclick: () => this.loadMore() }, `Load more ${word}s`);
    this.back = h("button", { type: "button", hidden: true, onclick: () => this.attempt(() => this.load()) }, "Follow again");
    const bar = h("div", { class: "choice" }, h("label", { class: "field" }, choice.label, this.chosen), this.back);
    place.replaceChildren(bar, this.problem, this.table, h("p", { class: "more" }, this.more));
  }

  /** Whoever reads on is not interrupted. `anew` draws it again even if nothing is new, because of the time that went by. */
  async refresh(signal, anew = false) {
    if (!this.longer && !this.busy) await this.load(signal, anew);
  }

  asked(value, cursor) {
    return { limit: PAGE, [this.name]: value, cursor };
  }

  async load(signal, anew = false) {
    const { turn } = this;
    const { value } = this.chosen;
    const page = await this.read(this.asked(value), signal);
    if (turn !== this.turn) return;
    [this.value, this.longer] = [value, false];
    if (!this.news([value, page]) && !anew) return;
    [this.rows, this.cursor] = [page.rows, page.cursor];
    this.show();
  }

  loadMore() {
    return this.attempt(async (turn) => {
      const page = await this.read(this.asked(this.value, this.cursor));
      if (turn !== this.turn) return;
      [this.longer, this.cursor] = [true, page.cursor];
      this.rows.push(...page.rows);
      this.news(null); // the first page is drawn again when it is followed again
      this.show();
      announce(`${plural(this.rows.length, this.word)} shown`);
    });
  }

  async attempt(call) {
    const turn = (this.turn += 1);
    this.busy = this.more.disabled = true;
    let problem = [];
    try {
      await call(turn);
    } catch (error) {
      problem = [refusal(error)];
    }
    if (turn !== this.turn) return;
    this.busy = this.more.disabled = false;
    this.problem.replaceChildren(...problem);
  }

  show() {
    arrange(this.table, [this.draw(this.rows)]);
    this.more.hidden = !this.cursor;
    this.back.hidden = !this.longer;
  }
}
