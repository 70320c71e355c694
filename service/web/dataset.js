// The page of a data set: its images, by pages that the address names, and its card.

import * as api from "./api.js";
import { crumb, facts, framed, heading, jobsWith, page, pictures } from "./catalog.js";
import { h, setText } from "./dom.js";
import { count } from "./format.js";
import { announce } from "./ui.js";

const SHOWN = 48;

/** A whole number of the address within [0, size), where a page of images begins. */
function firstOf(size) {
  const asked = Math.trunc(Number(new URLSearchParams(window.location.search).get("from"))) || 0;
  return Math.max(0, Math.min(asked, size - 1));
}

/** The images, and the buttons and the field that turn the pages. */
function browser(card) {
  const shown = h("div", { class: "pictures gallery" });
  const where = h("small");
  const step = (by) => () => show(Math.max(0, firstOf(card.size) + by));
  const before = h("button", { type: "button", onclick: step(-SHOWN) }, "Previous");
  const after = h("button", { type: "button", onclick: step(SHOWN) }, "Next");
  const number = h("input", { type: "number", min: 0, max: card.size - 1, required: true, "aria-label": "Go to image" });
  const go = h("form", { class: "field" }, number, h("button", {}, "Go"));
  go.addEventListener("submit", (event) => {
    event.preventDefault();
    show(Number(number.value));
  });

  function draw() {
    const from = firstOf(card.size);
    const last = Math.min(card.size, from + SHOWN) - 1;
    shown.replaceChildren(...pictures(card, from, SHOWN));
    setText(where, `${count(from)} to ${count(last)} of ${count(card.size)}`);
    before.disabled = from === 0;
    after.disabled = last === card.size - 1;
  }

  function show(from) {
    const search = from > 0 ? `?from=${from}` : window.location.pathname;
    window.history.pushState(null, "", search);
    draw();
    announce(`Images ${where.textContent}`);
  }

  window.addEventListener("popstate", draw);
  draw();
  const title = h("div", { class: "title-row" }, h("h2", {}, "Images ", where), h("div", { class: "buttons push" }, before, after, go));
  return h("section", { "aria-label": "Images" }, title, shown);
}

export const datasetView = (main, name) =>
  page(
    main,
    name,
    async (signal) => {
      const card = await api.getDataset(name, signal);
      const jobs = await jobsWith(name, { dataset: name }, signal);
      const about = h("p", { class: "about" }, card.title);
      return [crumb("datasets", "Data sets"), heading(name), about, framed(browser(card), jobs, facts(card))];
    },
    ["No such data set", `There is no data set ${name}.`],
  );
