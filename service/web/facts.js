// The parts of a job's page that are words and numbers: progress, notices, parameters, metrics.

import { arrange, h, setAttribute, setText } from "./dom.js";
import { count, duration, isFinal, measure, percent, plural, stateLabel } from "./format.js";
import { note } from "./ui.js";

const LONGEST_LIST = 12;
const LONGEST_ENTRY = 200;
const COUNTED = ["succeeded", "partially_succeeded", "failed", "cancelled", "cancelling", "running", "queued"];

/** `unit` is what the job's steps are called; `counts`, how many `word`s it is made of in each state, and in all. */
export function showProgress(ref, job, unit, counts = job.items, word = "item") {
  const { fraction, steps_done: done, steps_total: total, rate, eta_seconds: eta } = job.progress;
  setAttribute(ref.bar, "value", String(fraction ?? 0));
  setAttribute(ref.bar, "data-state", job.state);
  const parts = [percent(fraction ?? 0), `${count(done)} of ${plural(total, unit)}`];
  if (!isFinal(job.state) && rate) parts.push(`${measure(rate)} ${unit}s/s`);
  if (!isFinal(job.state) && job.state !== "cancelling" && eta !== null && eta !== undefined) parts.push(`about ${duration(eta)} left`);
  if (isFinal(job.state) && job.finished_at)
    parts.push(`took ${duration((Date.parse(job.finished_at) - Date.parse(job.created_at)) / 1000)}`);
  showParts(ref.numbers, parts);
  const present = COUNTED.filter((state) => counts[state] > 0);
  const found = present.map((state) => `${count(counts[state])} ${stateLabel(state)}`);
  showParts(ref.counts, [plural(counts.total, word), ...found]);
}

/** One span for each part, kept from poll to poll. */
function showParts(line, parts) {
  const spans = parts.map((text, i) => line.children[i] ?? h("span", {}, text));
  arrange(line, spans);
  spans.forEach((span, i) => setText(span, parts[i]));
}

/** Warnings take one line until they are opened: the pictures come first. */
function warned(warnings) {
  const more = h("span", { class: "glance" }, `: ${warnings.join("; ")}`);
  const summary = h("summary", {}, h("strong", {}, plural(warnings.length, "warning")), more);
  return h("details", { class: "note", "data-tone": "mixed" }, summary, ...warnings.map((line) => h("p", {}, line)));
}

export function notices(job) {
  const found = job.warnings.length ? [warned(job.warnings.map(String))] : [];
  if (job.error) found.unshift(note("bad", String(job.error.title), job.error.detail ?? ""));
  return found;
}

const brief = (object) => JSON.stringify(object, (_, value) => value ?? undefined).slice(0, LONGEST_ENTRY);

function shown(value) {
  if (value === null || value === undefined || value.length === 0) return "–";
  if (Array.isArray(value)) {
    const head = value
      .slice(0, LONGEST_LIST)
      .map((each) => (typeof each === "object" ? brief(each) : String(each)));
    return value.length > LONGEST_LIST ? `${head.join(", ")}, … (${count(value.length)} in all)` : head.join(", ");
  }
  return typeof value === "boolean" ? measure(value) : String(value);
}

/** Parameters that name something which has a page. */
const PAGES = {
  model: "models",
  baseline: "models",
  twin: "models",
  judge: "models",
  dataset: "datasets",
  validation: "datasets",
};

export const jobUrl = (id) => `/ui/jobs/${encodeURIComponent(id)}`;
export const jobLink = (id) => h("a", { href: jobUrl(id), class: "mono" }, id);
export const pageLink = (kind, name) => h("a", { href: `/ui/${kind}/${encodeURIComponent(name)}` }, name);

/** A digest shows its first characters, and the whole of it on hovering. */
function cell(name, value) {
  if (PAGES[name] && typeof value === "string") return h("td", {}, pageLink(PAGES[name], value));
  if (!/^[0-9a-f]{64}$/.test(value)) return h("td", {}, shown(value));
  return h("td", { title: value }, h("code", {}, `${value.slice(0, 16)}…`));
}

/** Nested objects become dotted names. */
export function parameterRows(parameters, prefix = "") {
  return Object.entries(parameters).flatMap(([name, value]) =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? parameterRows(value, `${prefix}${name}.`)
      : [h("tr", {}, h("th", { scope: "row" }, prefix + name), cell(name, value))],
  );
}

/** What is taken where a request names none. */
const UNSAID = { baseline: "the model's twin", judge: "the model's judge" };

/** The rows of a job's parameters; those that are not as the preset or the default has them say what that is. */
export function parameterTable(job, differs = {}) {
  return Object.entries(parametersOf(job)).flatMap(([name, value]) => {
    const rows = parameterRows({ [name]: value });
    if (!(name in differs) || rows.length === 0) return rows;
    for (const row of rows) row.className = "differs";
    const usual = differs[name] === null ? (UNSAID[name] ?? "none") : usually(differs[name]);
    rows[0].lastChild.append(h("small", {}, `else ${usual}`));
    return rows;
  });
}

const usually = (value) => (typeof value === "object" && !Array.isArray(value) ? brief(value) : shown(value));

const given = (request) => Object.fromEntries(Object.entries(request).filter(([, value]) => value !== null));

/** A request as it was meant: fields left open say nothing, a recipe's networks stand once, directions have names. */
export function parametersOf({ kind, parameters }) {
  if (kind === "activating_images") {
    const { directions, ...others } = parameters;
    return { ...others, directions: directions.map(({ label }) => label) };
  }
  if (kind.endsWith("_registration")) return given(parameters.request);
  if (kind !== "recipe") return parameters;
  const { recipe, networks, request } = parameters;
  return { recipe, ...networks, ...given(request) };
}

/** What a trace may hold, by its names there. */
export const QUANTITIES = {
  relative_distance: "Relative distance",
  activation: "Activation",
  loss: "Loss",
  grad_norm: "Gradient norm",
};

/** In this order; a kind of job has those that its items have. `AIM` is what the kind's target picture shows. */
export const METRICS = {
  relative_distance: "Relative distance",
  start_relative_distance: "Relative distance at the start",
  activation: "Activation",
  start_activation: "Activation at the start",
  reached: "Feature reached",
  steps_taken: "Steps taken",
  ssim: "SSIM with the AIM",
  pixel_l2: "Pixel L2 to the AIM",
  pixel_l2_moved: "Pixel L2 from the start",
  ghosting: "Ghosting",
  blend_ghosting: "Ghosting of the AIM",
  prediction: "Prediction",
  prediction_confidence: "Confidence in it",
  target_class: "Class of the target",
  judge_start_prediction: "Judge's prediction of the start",
  judge_prediction: "Judge's prediction",
  judge_confidence: "Judge's confidence",
  blend_judge_confidence: "Judge's confidence in the AIM",
};

export function verdict(metrics) {
  if (metrics.judge_agrees === true) return "agrees";
  return metrics.judge_agrees === false ? "differs" : "not judged";
}

export function metricRows(metrics) {
  const aim = "ghosting" in metrics ? "pixel blend" : "target";
  const rows = Object.entries(METRICS)
    .filter(([name]) => name in metrics)
    .map(([name, label]) => [label.replace("AIM", aim), measure(metrics[name])]);
  if (metrics.target_class_from === "judge") rows.find(([label]) => label === METRICS.target_class)[0] += ", by the judge";
  if ("judge_agrees" in metrics || !metrics.judge) rows.push(["Judge", verdict(metrics)]);
  return rows.map(([label, value]) => h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, value)));
}
