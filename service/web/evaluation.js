// What an evaluation found: accuracies with their intervals, overall and by class, and signs of hidden gradients.

import { getArtifact, getModel, listEvaluations, Refused } from "./api.js";
import { lineChart } from "./chart.js";
import { confusions } from "./confusion.js";
import { h, svg } from "./dom.js";
import { accuracy, count, measure, plural } from "./format.js";
import { artifact } from "./picture.js";
import { dataTable, small, wideTable } from "./tables.js";
import { note } from "./ui.js";

const CONTROL = /^control /;
const WORST = "worst case";
const NORMS = { l2: "L2", linf: "L∞" };
const LEGEND =
  "Accuracy is the share of images that stand, with its 95% Wilson interval. Worst case: the images that stand " +
  "against every attack of that radius, noise too. Margin: the label's logit minus the greatest other, where the " +
  "attack ends.";

export const ball = ({ norm, eps }) => `${NORMS[norm] ?? norm} ${measure(eps)}`;
const interval = ({ low, high }) => `[${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`;

/** An interval between 0 and 100 %, to compare at a glance what the cell beside it says in numbers. */
function whisker({ accuracy: value, low, high }) {
  const at = (share) => 4 + 112 * share;
  return svg(
    "svg",
    { class: "whisker", viewBox: "0 0 120 16", "aria-hidden": "true" },
    svg("line", { class: "range", x1: at(0), x2: at(1), y1: 8, y2: 8 }),
    svg("line", { class: "reach", x1: at(low), x2: at(high), y1: 8, y2: 8 }),
    svg("circle", { cx: at(value), cy: 8, r: 4 }),
  );
}

const share = (each) => [
  h("span", { class: "value" }, accuracy(each.accuracy)),
  " ",
  h("span", { class: "muted" }, interval(each)),
];

/** The shares of images that stand, each after its name: clean, under every attack, and the worst of each radius. */
export const accuracies = ({ clean, attacks, worst = [] }) => [
  ["no attack", clean],
  ...attacks.map((each) => [String(each.name), each]),
  ...worst.map((each) => [WORST, each]),
];

function overall(summary) {
  const rows = accuracies(summary).map(([name, each]) => [
    [name, each.norm ? small(`within ${ball(each)}`) : null],
    share(each),
    whisker(each),
    each.median_margin === undefined ? "–" : measure(each.median_margin),
    each.without_gradient === undefined ? "–" : count(each.without_gradient),
  ]);
  const heads = ["Attack", "Accuracy", "0 to 100 %", "Median margin", "Images without gradient"];
  return dataTable("Accuracy", heads, rows);
}

function byClass(summary) {
  const listed = ({ clean, attacks }) => accuracies({ clean, attacks });
  const heads = ["Class", "Images", ...listed(summary).map(([name]) => name)];
  const rows = summary.classes.map((each) => [
    String(each.label),
    count(each.images),
    ...listed(each).map(([, stood]) => share(stood)),
  ]);
  return wideTable("Accuracy by class", heads, rows);
}

/** Points of accuracy by radius for each attack, clean being radius 0, of evaluations with one norm; newest first. */
function radiusLines(evaluations) {
  const lines = new Map();
  for (const { summary } of evaluations) {
    const radius = summary.attacks.find(({ name }) => !CONTROL.test(name))?.eps;
    const tried = summary.attacks.filter(({ name }) => !CONTROL.test(name));
    const worst = summary.worst.filter(({ eps }) => eps === radius);
    for (const [name, each] of [...tried.map((a) => [String(a.name), a]), ...worst.map((w) => [WORST, w])]) {
      const points = lines.get(name) ?? lines.set(name, new Map([[0, summary.clean.accuracy]])).get(name);
      if (!points.has(each.eps)) points.set(each.eps, each.accuracy);
    }
  }
  return new Map([...lines].map(([name, points]) => [name, [...points].sort(([a], [b]) => a - b)]));
}

/** A chart for each data set and norm that the evaluations are of. */
export function radiusCharts(evaluations) {
  const groups = new Map();
  for (const each of evaluations) {
    const norm = each.summary.attacks.find(({ name }) => !CONTROL.test(name))?.norm;
    const title = `Accuracy by ${NORMS[norm] ?? norm} radius, ${each.dataset}`;
    if (norm) groups.set(title, [...(groups.get(title) ?? []), each]);
  }
  const charts = [...groups].map(([title, group]) => {
    const lines = radiusLines(group);
    const chart = lineChart(title, { along: "radius", say: measure, value: accuracy, share: true, log: null, names: [...lines.keys()] });
    chart.update([...lines.values()]);
    return h("div", { class: "panel" }, chart.node);
  });
  return h("div", { class: "charts" }, ...charts);
}

/** What is known of the job's network: its classes, and all its evaluations on the data set. It may be gone. */
async function known({ parameters: { model, dataset } }, signal) {
  try {
    const { classes } = await getModel(model, signal);
    const { evaluations } = await listEvaluations(model, signal);
    return { classes, evaluations: evaluations.filter((each) => each.dataset === dataset) };
  } catch (error) {
    if (error instanceof Refused) return { classes: [], evaluations: [] };
    throw error;
  }
}

/** The nodes that show an evaluation's summary. */
export async function drawEvaluation(job, item, signal) {
  const summary = await getArtifact(artifact(item, "summary.json").url, signal);
  const { suspicions, missing, images } = summary;
  const { classes, evaluations } = await known(job, signal);
  const nodes = [];
  if (suspicions.length > 0) {
    const title = `${plural(suspicions.length, "sign")} that the network hides its gradients rather than being robust`;
    nodes.push(note("mixed", title, ...suspicions.map(String)));
  }
  if (missing > 0) {
    const why = "Their runs failed; the tables are of the others.";
    nodes.push(note("mixed", `${plural(missing, "image")} missing`, why));
  }
  return [
    ...nodes,
    h(
      "section",
      {},
      h("h2", {}, "Accuracy ", h("small", {}, `of ${plural(images, "image")}`)),
      overall(summary),
      h("p", { class: "muted legend" }, LEGEND),
    ),
    radiusCharts(evaluations),
    h("section", {}, h("h2", {}, "By class"), byClass(summary)),
    confusions(job, item, summary, classes),
  ];
}
