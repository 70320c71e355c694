// The registries: networks and data sets that jobs can name, and what the page of either is made of.

import * as api from "./api.js";
import { h } from "./dom.js";
import { pageLink, parameterRows } from "./facts.js";
import { accuracy, count, measure } from "./format.js";
import { plainPicture } from "./picture.js";
import { poll } from "./poll.js";
import { jobTable, Row } from "./rows.js";
import { dataTable, small } from "./tables.js";
import { hideBanner, messagePage, refusal, showBanner } from "./ui.js";

/** Images of a data set that its row shows. */
const PEEK = 4;
/** Jobs that a page of a network or a data set lists. */
const RECENT = 5;
/** Fields of a card that are too long to stand among the others. */
const LONG = { classes: "Classes", layers: "Layers", images: "Images" };

/** Put what `make(signal)` answers into the page, as soon as the API can be reached. */
export function page(main, title, make, missing) {
  document.title = `${title} · robustreps`;
  main.replaceChildren(h("p", { class: "loading" }, "Loading…"));
  const refused = (error) =>
    error.status === 404 && missing ? messagePage(main, ...missing) : main.replaceChildren(refusal(error));
  const load = async (signal) => {
    main.replaceChildren(...(await make(signal)));
    return false;
  };
  poll(load, { up: hideBanner, down: (error, retry) => showBanner(error.message, retry), refused });
}

export const heading = (text) => h("div", { class: "title-row" }, h("h1", {}, text));
export const framed = (...nodes) => h("div", { class: "items" }, ...nodes);
const link = (kind, { name, title }) => [pageLink(kind, name), small(title)];
const rate = (value) => (value === null || value === undefined ? "–" : accuracy(value));
const pixels = (side) => (side ? `${count(side)} × ${count(side)}` : "several");

/** Images `from` to `from + few` of a data set, as far as it has them. */
export const pictures = ({ name, size }, from, few) =>
  Array.from({ length: Math.max(0, Math.min(few, size - from)) }, (_, i) =>
    plainPicture(api.imageUrl(name, from + i), `#${from + i}`, `image ${from + i} of ${name}`),
  );

/** Where a job with a network or a data set is asked for, and the last ones that name it. */
export async function jobsWith(name, chosen, signal) {
  const { jobs } = await api.listJobs({ text: name, top_level: true, limit: RECENT }, signal);
  const table = jobTable("Latest jobs", "Job");
  table.rows.append(...jobs.map((job) => new Row(job).node));
  const ask = h("a", { href: `/ui/new?${new URLSearchParams(chosen)}` }, "New job with it");
  const all = h("a", { href: `/ui/?${new URLSearchParams({ text: name })}` }, "all of them");
  const title = h("h2", {}, "Latest jobs ", h("small", {}, ask, ...(jobs.length ? [" · ", all] : [])));
  const nothing = h("p", { class: "muted" }, "No job has named it yet.");
  return h("section", { class: "parts" }, title, jobs.length ? table.node : nothing);
}

export const modelList = (main) =>
  page(main, "Models", async (signal) => {
    const heads = ["Model", "Architecture", "Input", "Radius", "Clean accuracy", "Under PGD-20"];
    const rows = (await api.listModels(signal)).map((card) => [
      link("models", card),
      card.architecture,
      pixels(card.input_size),
      measure(card.epsilon),
      rate(card.clean_accuracy),
      rate(card.pgd20_accuracy),
    ]);
    return [heading("Models"), framed(dataTable("Models", heads, rows))];
  });

export const datasetList = (main) =>
  page(main, "Data sets", async (signal) => {
    const heads = ["Data set", "First images", "Images", "Size", "Classes", "Licence"];
    const rows = (await api.listDatasets(signal)).map((card) => [
      link("datasets", card),
      h("span", { class: "pictures peek" }, ...pictures(card, 0, PEEK)),
      count(card.size),
      pixels(card.image_size),
      card.classes.length ? count(card.classes.length) : "no labels",
      card.licence || "–",
    ]);
    return [heading("Data sets"), framed(dataTable("Data sets", heads, rows))];
  });

export function crumb(kind, words) {
  return h("nav", { "aria-label": "Breadcrumb", class: "crumb" }, h("a", { href: `/ui/${kind}` }, words));
}

/** A card's fields: the short ones as a table, each long one folded below. */
export function facts(card) {
  const { name: _, title: __, ...fields } = card;
  const brief = Object.fromEntries(Object.entries(fields).filter(([field]) => !(field in LONG)));
  const folded = Object.entries(LONG).flatMap(([field, words]) => {
    const found = fields[field] ?? [];
    const rows = Array.isArray(found) ? found.map((each, i) => [i, each]) : Object.entries(found);
    if (rows.length === 0) return [];
    const table = h("table", { class: "pairs" }, ...parameterRows(Object.fromEntries(rows)));
    return [h("details", {}, h("summary", {}, `${words} (${count(rows.length)})`), table)];
  });
  return h(
    "section",
    { class: "panel card-facts", "aria-labelledby": "card-title" },
    h("h2", { id: "card-title" }, "Card"),
    h("table", { class: "pairs", "aria-labelledby": "card-title" }, ...parameterRows(brief)),
    ...folded,
  );
}
