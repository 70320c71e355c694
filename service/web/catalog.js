// The registries: networks and data sets that jobs can name, and the card of each.

import * as api from "./api.js";
import { h } from "./dom.js";
import { accuracies, ball } from "./evaluation.js";
import { pageLink, parameterRows } from "./facts.js";
import { accuracy, count, exactTime, measure, plural } from "./format.js";
import { plainPicture } from "./picture.js";
import { poll } from "./poll.js";
import { dataTable, small } from "./tables.js";
import { hideBanner, messagePage, refusal, showBanner } from "./ui.js";

const SHOWN_IMAGES = 24;
/** Fields of a card that are too long to stand among the others. */
const LONG = { classes: "Classes", layers: "Layers", images: "Images" };

/** Put what `make(signal)` answers into the page, as soon as the API can be reached. */
function page(main, title, make, missing) {
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

const heading = (text) => h("div", { class: "title-row" }, h("h1", {}, text));
const framed = (...nodes) => h("div", { class: "items" }, ...nodes);
const link = (kind, { name, title }) => [pageLink(kind, name), small(title)];
const rate = (value) => (value === null || value === undefined ? "–" : accuracy(value));
const pixels = (side) => (side ? `${count(side)} × ${count(side)}` : "several");

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
    const heads = ["Data set", "Images", "Size", "Classes", "Licence"];
    const rows = (await api.listDatasets(signal)).map((card) => [
      link("datasets", card),
      count(card.size),
      pixels(card.image_size),
      card.classes.length ? count(card.classes.length) : "no labels",
      card.licence || "–",
    ]);
    return [heading("Data sets"), framed(dataTable("Data sets", heads, rows))];
  });

function crumb(kind, words) {
  return h("nav", { "aria-label": "Breadcrumb", class: "crumb" }, h("a", { href: `/ui/${kind}` }, words));
}

/** A card's fields: the short ones as a table, each long one folded below. */
function facts(card) {
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

/** An evaluation as a row: every attack in a line of its own. */
function evaluationRow({ job, dataset, summary, at }) {
  const [, ...attacked] = accuracies(summary);
  const lines = attacked.map(([name, each]) =>
    h("span", { class: "line-of" }, h("b", {}, accuracy(each.accuracy)), ` ${name}, `, ball(each)),
  );
  return [
    [pageLink("datasets", dataset), small(plural(summary.images, "image"))],
    accuracy(summary.clean.accuracy),
    lines.length ? lines : "–",
    summary.suspicions.length ? h("span", { class: "bad-text" }, plural(summary.suspicions.length, "sign")) : "none",
    [h("a", { href: `/ui/jobs/${encodeURIComponent(job)}`, class: "mono" }, job), small(exactTime(at))],
  ];
}

export const modelView = (main, name) =>
  page(
    main,
    name,
    async (signal) => {
      const card = await api.getModel(name, signal);
      const { evaluations } = await api.listEvaluations(name, signal);
      const heads = ["Data set", "Clean", "Under attack", "Signs of hidden gradients", "Job"];
      const found = evaluations.length
        ? dataTable("Evaluations", heads, evaluations.map(evaluationRow))
        : h("p", { class: "muted" }, "No evaluation job has measured it yet.");
      const weights = h("a", { href: api.weightsUrl(name), download: `${name}.safetensors` }, "Download the weights");
      return [
        crumb("models", "Models"),
        heading(name),
        h("p", { class: "about" }, card.title, card.title ? " · " : "", weights),
        framed(h("section", {}, h("h2", {}, "Evaluations"), found), facts(card)),
      ];
    },
    ["No such model", `There is no model ${name}.`],
  );

export const datasetView = (main, name) =>
  page(
    main,
    name,
    async (signal) => {
      const card = await api.getDataset(name, signal);
      const first = Array.from({ length: Math.min(SHOWN_IMAGES, card.size) }, (_, i) =>
        plainPicture(api.imageUrl(name, i), `#${i}`, `image ${i} of ${name}`),
      );
      return [
        crumb("datasets", "Data sets"),
        heading(name),
        h("p", { class: "about" }, card.title),
        framed(
          h(
            "section",
            { "aria-label": "Images" },
            h("h2", {}, "Images ", h("small", {}, `${count(first.length)} of ${count(card.size)}`)),
            h("div", { class: "pictures gallery" }, ...first),
          ),
          facts(card),
        ),
      ];
    },
    ["No such data set", `There is no data set ${name}.`],
  );
