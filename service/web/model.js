// The page of a network: what was measured of it, how it was trained, the jobs that use it, and its card.

import * as api from "./api.js";
import { crumb, facts, framed, heading, jobsWith, page } from "./catalog.js";
import { h } from "./dom.js";
import { accuracies, ball, radiusCharts } from "./evaluation.js";
import { jobLink, jobUrl, pageLink } from "./facts.js";
import { accuracy, count, exactTime, measure, plural } from "./format.js";
import { dataTable, small } from "./tables.js";
import { EpochCurves } from "./training.js";

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
    [jobLink(job), small(exactTime(at))],
  ];
}

function measured(evaluations) {
  const title = h("h2", {}, "Evaluations");
  if (evaluations.length === 0)
    return h("section", {}, title, h("p", { class: "muted" }, "No evaluation job has measured it yet."));
  const heads = ["Data set", "Clean", "Under attack", "Signs of hidden gradients", "Job"];
  return h("section", {}, title, radiusCharts(evaluations), dataTable("Evaluations", heads, evaluations.map(evaluationRow)));
}

/** The curves of the job that trained it, where that is known and still kept. */
async function trained({ job }, signal) {
  if (typeof job !== "string") return null;
  try {
    const { epochs } = await api.listEpochs(job, signal);
    if (epochs.length === 0) return null;
    const curves = new EpochCurves();
    curves.update(epochs);
    const link = h("a", { href: jobUrl(job) }, "the job that trained it");
    return h("section", {}, h("h2", {}, "Training ", h("small", {}, link)), ...curves.nodes);
  } catch (error) {
    if (error instanceof api.Refused) return null;
    throw error;
  }
}

/** What one asks first of a network, large. */
function headline(card) {
  const found = [
    ["Clean accuracy", card.clean_accuracy, accuracy],
    [`Under PGD-20${card.pgd20_epsilon ? `, radius ${measure(card.pgd20_epsilon)}` : ""}`, card.pgd20_accuracy, accuracy],
    ["Trained within radius", card.epsilon, measure],
    ["Pixels", card.input_size, (side) => `${count(side)} × ${count(side)}`],
    ["Coordinates", card.features, count],
    ["Weights", card.parameters, count],
  ].filter(([, value]) => typeof value === "number");
  return h("dl", { class: "headline" }, ...found.map(([name, value, say]) => h("div", {}, h("dt", {}, name), h("dd", {}, say(value)))));
}

export const modelView = (main, name) =>
  page(
    main,
    name,
    async (signal) => {
      const card = await api.getModel(name, signal);
      const { evaluations } = await api.listEvaluations(name, signal);
      const weights = h("a", { href: api.weightsUrl(name), download: `${name}.safetensors` }, "Download the weights");
      const about = h("p", { class: "about" }, card.title, card.title ? " · " : "", weights);
      const sections = [measured(evaluations), await trained(card, signal), await jobsWith(name, { model: name }, signal)];
      return [
        crumb("models", "Models"),
        heading(name),
        about,
        framed(headline(card), ...sections.filter(Boolean), facts(card)),
      ];
    },
    ["No such model", `There is no model ${name}.`],
  );
