// What a request would become, and the button that sends it.

import { h, setText } from "./dom.js";
import { count, duration, plural } from "./format.js";
import { words } from "./schema.js";
import { note } from "./ui.js";

const row = (name, value) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value));

function begins(waiting) {
  if (!waiting) return "at once";
  if (waiting.starts_in_seconds !== null) return `in about ${duration(waiting.starts_in_seconds)}`;
  return waiting.reason === "no_worker" ? "once there is a worker" : waiting.detail;
}

/** How much there is to do: items and their steps, or, over a data set, images, as many as one or all parts have. */
function amount({ kind, parameters, parts, items, image_steps: steps }) {
  const some = (value) => (value === null ? "as many as the source names" : count(value));
  const each = Object.values(parts).length ? Object.values(parts) : [parameters];
  if (!each.every(({ images }) => typeof images === "number"))
    return [["Items", some(items)], [kind === "training" ? "Optimiser steps" : "Image-steps, at most", some(steps)]];
  const images = each.reduce((all, part) => all + part.images, 0);
  const most = Math.max(...each.map((part) => part.steps));
  const [name, number] = each[0].attacks ? ["Attack steps an image", most - 1] : ["Passes an image", most]; // one is clean
  return [["Images", count(images)], [name, count(number)]];
}

export class Estimate {
  /** `submit()` sends the request, `go(field)` leads to a field. */
  constructor(submit, go) {
    this.go = go;
    this.table = h("table", { class: "pairs", "aria-labelledby": "estimate-title" });
    this.basis = h("p", { class: "hint" });
    this.notes = h("div", { class: "notes" });
    this.button = h("button", { type: "button", class: "solid", title: "Ctrl+Enter", onclick: submit }, "Submit");
    this.node = h(
      "section",
      { class: "panel estimate", "aria-labelledby": "estimate-title" },
      h("h2", { id: "estimate-title" }, "Estimate"),
      this.table,
      this.basis,
      this.notes,
      this.button,
    );
  }

  /** Stands until the next answer. */
  wait = () => this.node.classList.add("stale");

  answered() {
    this.node.classList.remove("stale");
  }

  /** `given` are warnings of what was there before the user chose anything. */
  show(plan, given) {
    const { shards, estimate, waiting, warnings } = plan;
    this.answered();
    this.table.replaceChildren(
      ...amount(plan).map(([name, value]) => row(name, value)),
      row("Shards", shards === null ? "as many as the source names" : count(shards)),
      row("Time", estimate.seconds === null ? "not known yet" : `about ${duration(estimate.seconds)}`),
      row("Begins", begins(waiting)),
    );
    setText(this.basis, estimate.basis);
    const chosen = warnings.filter((warning) => !given.includes(warning));
    const usual = warnings.filter((warning) => given.includes(warning));
    this.notes.replaceChildren(
      ...(chosen.length ? [note("mixed", plural(chosen.length, "warning"), ...chosen)] : []),
      ...usual.map((line) => h("p", { class: "hint" }, `Note: ${line}.`)),
    );
  }

  /** `errors` are {field, message}; a press on one leads there. */
  refuse(errors) {
    this.answered();
    this.table.replaceChildren();
    setText(this.basis, "");
    const line = ({ field, message }) => {
      const to = h(
        "button",
        { type: "button", class: "link", onclick: () => this.go(field) },
        field && field !== "body" ? words(field) : "The request",
      );
      return h("li", {}, to, ` ${message}`);
    };
    this.notes.replaceChildren(
      h(
        "div",
        { class: "note", "data-tone": "bad" },
        h("strong", {}, "Not yet a request"),
        h("ul", {}, ...errors.map(line)),
      ),
    );
  }

  /** Something is in the way that has nothing to do with the request. */
  fail(message) {
    this.answered();
    this.notes.replaceChildren(note("bad", "No estimate", message));
  }
}
