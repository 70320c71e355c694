// Jobs as the rows of a table, and how a job is called.

import { changes, h, setAttribute, setText } from "./dom.js";
import { jobUrl } from "./facts.js";
import { count, duration, exactTime, isFinal, itemsDone, percent, plural, sinceThen, stateLabel } from "./format.js";
import { silence } from "./moments.js";
import { Thumbs } from "./thumbs.js";
import { announce, Badge } from "./ui.js";

/** Labels that a row has room for. */
const MOST_LABELS = 4;

export const isRecipe = (job) => job.kind === "recipe";

export const kindName = (kind) => String(kind).replaceAll("_", " ");

/** A recipe says which figure it is, a registration what it registers. */
export function kindOf({ kind, title }) {
  if (isRecipe({ kind })) return title;
  return title ? `${kindName(kind)}: ${title}` : kindName(kind);
}

const SHORT = 6; // last characters of an id, which are enough to tell a few jobs apart

/** What a job is called: as it is described, or else by what it does, with which network, and the end of its id. */
export function titleOf(job) {
  if (job.description) return job.description;
  const model = isRecipe(job) || job.title ? "" : job.model;
  return [kindOf(job), model, job.id.slice(-SHORT)].filter(Boolean).join(" · ");
}

/** What the job computes with; for training, what it is to make. */
const networksOf = ({ networks }) => networks?.join(",\n") || "–";

const workOf = (job) =>
  isRecipe(job)
    ? plural(Object.keys(job.parts).length, "part")
    : `${count(itemsDone(job.items))} / ${count(job.items.total)}`;

/** How far a job is and how long it takes yet, or how long it took. */
function paceOf({ state, progress, created_at: created, finished_at: finished }) {
  if (isFinal(state)) return finished ? `took ${duration((Date.parse(finished) - Date.parse(created)) / 1000)}` : "";
  const left = progress.eta_seconds ?? null;
  return `${percent(progress.fraction)}${left === null ? "" : ` · ${duration(left)} left`}`;
}

/** Why a job makes no progress, or did not succeed, in a few words. */
export function reasonOf(job) {
  const { waiting, error, planning, items, state } = job;
  if (error) return String(error.title);
  if (items.failed > 0) return `${count(items.failed)} failed`;
  if (!waiting || isFinal(state)) return silence(job);
  const { reason, ahead, starts_in_seconds: seconds } = waiting;
  const soon = seconds === null ? "" : `in ${duration(seconds)}`.replaceAll(" ", "\u00a0");
  if (reason === "paused") return "";
  if (reason === "planning") return planning ? `${plural(planning.entries, "entry", "entries")} looked at` : "planning";
  if (reason === "backing_off") return `tries again ${soon}`;
  if (reason === "parts") return "waits for its parts";
  if (reason === "no_worker") return "no worker is alive";
  if (ahead === 0) return seconds ? `begins ${soon}` : "begins next";
  return [`${plural(ahead, "shard")} ahead`, soon && `begins ${soon}`].filter(Boolean).join(", ");
}

/**
 * A table of jobs: its node, and the body that takes the rows. `name` heads the column of their names; `all`, where rows
 * can be selected, is the box that selects them all.
 */
export function jobTable(label, name, all = null) {
  const head = (text, number) => h("th", { role: "columnheader", scope: "col", class: number && "number" }, text);
  const words = [name, "Model", "State", "Progress"].map((text) => head(text));
  const heads = [...words, head("Items done", true), head("Created", true)];
  if (all) heads.unshift(h("th", { role: "columnheader", scope: "col", class: "c-select" }, all));
  const rows = h("tbody", { role: "rowgroup" });
  const top = h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...heads));
  return { node: h("table", { class: "jobs", role: "table", "aria-label": label }, top, rows), rows };
}

/** One job. `label`, where it has one, is its name; `box` is a checkbox that selects it, for a row of the list. */
export class Row {
  constructor(job, label = null, box = null) {
    this.label = label;
    this.box = box;
    this.badge = new Badge();
    this.model = h("td", { role: "cell", class: "c-model" });
    this.kind = h("span", { class: "muted" });
    this.about = h("span", { class: "about-job" });
    this.labels = h("span", { class: "chips" });
    this.thumbs = box && new Thumbs();
    this.reason = h("span", { class: "reason" });
    this.bar = h("progress", { max: 1, value: 0, "aria-label": `Progress of ${label ?? job.id}` });
    this.pace = h("span", { class: "pace" });
    this.items = h("td", { role: "cell", class: "c-items number" });
    this.time = h("time", { datetime: job.created_at, title: exactTime(job.created_at) });
    this.news = changes();
    const cell = (name, ...nodes) => h("td", { role: "cell", class: name }, ...nodes);
    this.name = h("a", { href: jobUrl(job.id) }, label);
    const id = label ? null : h("span", { class: "mono muted id" }, job.id);
    this.node = h(
      "tr",
      { role: "row" },
      box && cell("c-select", h("label", {}, box)),
      cell("c-job", this.name, this.kind, id, this.about, this.labels),
      this.model,
      cell("c-state", this.badge.node, this.reason),
      cell("c-progress", this.bar, h("span", { class: "under" }, this.pace, this.thumbs?.node)),
      this.items,
      cell("c-created number", this.time),
    );
    this.update(job);
  }

  update(job) {
    if (this.job && this.job.state !== job.state) announce(`Job ${this.label ?? titleOf(job)} is ${stateLabel(job.state)}`);
    this.job = job;
    this.badge.set(job.state);
    if (!this.label) setText(this.name, titleOf(job));
    setText(this.kind, this.label || job.description ? kindOf(job) : "");
    setText(this.model, networksOf(job));
    setText(this.items, workOf(job));
    setText(this.time, sinceThen(job.created_at));
    setText(this.pace, paceOf(job));
    setText(this.reason, reasonOf(job));
    setAttribute(this.reason, "title", job.error?.detail ?? job.waiting?.detail ?? "");
    setAttribute(this.bar, "value", String(job.progress?.fraction ?? 0));
    setAttribute(this.bar, "data-state", job.state);
    this.thumbs?.update(job);
    if (this.news([job.description, job.labels])) this.describe(job);
  }

  describe({ description, labels }) {
    setText(this.about, (this.label && description) || "");
    setAttribute(this.name, "title", description ?? "");
    const all = Object.entries(labels).map(([key, value]) => (value ? `${key}=${value}` : key));
    const href = (label) => `/ui/?${new URLSearchParams({ label })}`;
    const chips = all.slice(0, MOST_LABELS).map((label) => h("a", { class: "chip", href: href(label), title: label }, label));
    const others = all.slice(MOST_LABELS);
    if (others.length) chips.push(h("span", { class: "muted", title: others.join("\n") }, `+${count(others.length)}`));
    this.labels.replaceChildren(...chips);
  }
}
