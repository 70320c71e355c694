// The parts of a job's page that are words and numbers: progress, notices, timeline, parameters.

import { arrange, h, setAttribute, setText } from "./dom.js";
import { clockTime, count, duration, exactTime, isFinal, measure, percent, plural } from "./format.js";
import { Badge, note } from "./ui.js";

const LONGEST_LIST = 12;
const COUNTED = ["succeeded", "failed", "cancelled", "running", "queued"];

export function showProgress(ref, job) {
  const { fraction, steps_done: done, steps_total: total, rate, eta_seconds: eta } = job.progress;
  setAttribute(ref.bar, "value", String(fraction ?? 0));
  setAttribute(ref.bar, "data-state", job.state);
  const parts = [percent(fraction ?? 0), `${count(done)} of ${plural(total, "image-step")}`];
  if (!isFinal(job.state) && rate) parts.push(`${count(rate)} image-steps/s`);
  if (!isFinal(job.state) && eta !== null && eta !== undefined) parts.push(`about ${duration(eta)} left`);
  if (isFinal(job.state) && job.finished_at)
    parts.push(`took ${duration((Date.parse(job.finished_at) - Date.parse(job.created_at)) / 1000)}`);
  showParts(ref.numbers, parts);
  const counts = COUNTED.filter((state) => job.items[state] > 0).map((state) => `${count(job.items[state])} ${state}`);
  showParts(ref.counts, [plural(job.items.total, "item"), ...counts]);
}

/** One span for each part, kept from poll to poll. */
function showParts(line, parts) {
  const spans = parts.map((text, i) => line.children[i] ?? h("span", {}, text));
  arrange(line, spans);
  spans.forEach((span, i) => setText(span, parts[i]));
}

export function notices(job) {
  const found = job.warnings.length
    ? [note("mixed", plural(job.warnings.length, "warning"), ...job.warnings.map(String))]
    : [];
  if (job.error) found.unshift(note("bad", String(job.error.title), job.error.detail ?? ""));
  return found;
}

export function timeline(job) {
  return job.transitions.map(({ state, at }, i) => {
    const before = i ? `+${duration((Date.parse(at) - Date.parse(job.transitions[i - 1].at)) / 1000)}` : "";
    return h(
      "li",
      {},
      new Badge(state).node,
      h("time", { datetime: at, title: exactTime(at) }, clockTime(at)),
      h("span", { class: "muted" }, before),
    );
  });
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) {
    const head = value
      .slice(0, LONGEST_LIST)
      .map((each) => (typeof each === "object" ? JSON.stringify(each) : String(each)));
    return value.length > LONGEST_LIST ? `${head.join(", ")}, … (${count(value.length)} in all)` : head.join(", ");
  }
  if (typeof value === "boolean") return value ? "yes" : "no";
  return String(value);
}

/** A digest shows its first characters, and the whole of it on hovering. */
function cell(value) {
  if (!/^[0-9a-f]{64}$/.test(value)) return h("td", {}, shown(value));
  return h("td", { title: value }, h("code", {}, `${value.slice(0, 16)}…`));
}

/** Nested objects become dotted names. */
export function parameterRows(parameters, prefix = "") {
  return Object.entries(parameters).flatMap(([name, value]) =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? parameterRows(value, `${prefix}${name}.`)
      : [h("tr", {}, h("th", { scope: "row" }, prefix + name), cell(value))],
  );
}

const METRICS = {
  relative_distance: "Relative distance",
  start_relative_distance: "Relative distance at the start",
  ssim: "SSIM with the target",
  pixel_l2: "Pixel L2 to the target",
  pixel_l2_moved: "Pixel L2 from the start",
  target_class: "Class of the target",
  judge_prediction: "Judge's prediction",
};

export function verdict(metrics) {
  if (metrics.judge_agrees === true) return "agrees";
  return metrics.judge_agrees === false ? "differs" : "not judged";
}

export function metricRows(metrics) {
  const rows = Object.entries(METRICS).map(([name, label]) => [label, measure(metrics[name])]);
  rows.push(["Judge", verdict(metrics)]);
  return rows.map(([label, value]) => h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, value)));
}
