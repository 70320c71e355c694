// What an evaluation found: accuracies with their intervals, overall and by class, and signs of hidden gradients.

import { getArtifact } from "./api.js";
import { h, svg } from "./dom.js";
import { accuracy, count, measure, plural } from "./format.js";
import { artifact } from "./picture.js";
import { dataTable, small, wideTable } from "./tables.js";
import { note } from "./ui.js";

const NORMS = { l2: "L2", linf: "L∞" };
const LEGEND =
  "Accuracy is the share of images that stand, with its 95% Wilson interval. Worst case: the images that stand against " +
  "every attack of that radius, noise too. Margin: the label's logit minus the greatest other, at its least.";

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

const share = (each) => [h("span", { class: "value" }, accuracy(each.accuracy)), " ", small(interval(each))];

/** Every attack of a summary and, after them, the worst case of each radius: pairs of words and a share. */
export function accuracies(summary, asked = summary.attacks.length) {
  const attacks = summary.attacks.map((each, i) => [`${each.name}, ${ball(each)}`, each, i < asked ? "" : "control"]);
  return [["no attack", summary.clean, ""], ...attacks, ...summary.worst.map((each) => [`worst case, ${ball(each)}`, each, ""])];
}

function overall(job, summary) {
  const rows = accuracies(summary, job.parameters.attacks.length).map(([name, each, role]) => [
    [name, role && small(role)],
    share(each),
    whisker(each),
    each.median_margin === undefined ? "–" : measure(each.median_margin),
    each.without_gradient === undefined ? "–" : count(each.without_gradient),
  ]);
  const heads = ["Attack", "Accuracy", "0 to 100 %", "Median margin", "Images without gradient"];
  return dataTable("Accuracy", heads, rows);
}

function byClass(summary) {
  const [, ...attacks] = accuracies({ ...summary, worst: [] });
  const heads = ["Class", "Images", "no attack", ...attacks.map(([name]) => name)];
  const rows = summary.classes.map(({ label, images, clean, attacks: each }) => [
    String(label),
    count(images),
    ...[clean, ...each].map(share),
  ]);
  return wideTable("Accuracy by class", heads, rows);
}

/** The nodes that show an evaluation's summary. */
export async function drawEvaluation(job, item, signal) {
  const summary = await getArtifact(artifact(item, "summary.json").url, signal);
  const { suspicions, missing, images } = summary;
  const nodes = [];
  if (suspicions.length > 0) {
    const title = `${plural(suspicions.length, "sign")} that the network hides its gradients rather than being robust`;
    nodes.push(note("mixed", title, ...suspicions.map(String)));
  }
  if (missing > 0) nodes.push(note("mixed", `${plural(missing, "image")} missing`, "Their runs failed; the tables are of the others."));
  return [
    ...nodes,
    h(
      "section",
      {},
      h("h2", {}, "Accuracy ", h("small", {}, `of ${plural(images, "image")}`)),
      overall(job, summary),
      h("p", { class: "muted legend" }, LEGEND),
    ),
    h("section", {}, h("h2", {}, "By class"), byClass(summary)),
  ];
}
