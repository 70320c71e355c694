// Jobs as the rows of a table, and how a job is called.

import { h, setAttribute, setText } from "./dom.js";
import { count, exactTime, itemsDone, plural, sinceThen, stateLabel } from "./format.js";
import { announce, Badge } from "./ui.js";

export const isRecipe = (job) => job.kind === "recipe";

export const kindName = (kind) => String(kind).replaceAll("_", " ");

/** A recipe says which figure it is, a registration what it registers. */
export function kindOf({ kind, title }) {
  if (isRecipe({ kind })) return title;
  return title ? `${kindName(kind)}: ${title}` : kindName(kind);
}

/** What the job computes with; for training, what it is to make. */
const networksOf = ({ networks }) => networks?.join(",\n") || "–";

const workOf = (job) =>
  isRecipe(job)
    ? plural(Object.keys(job.parts).length, "part")
    : `${count(itemsDone(job.items))} / ${count(job.items.total)}`;

/** A table of jobs: its node, and the body that takes the rows. `name` heads the column of their names. */
export function jobTable(label, name) {
  const head = (text, number) => h("th", { role: "columnheader", scope: "col", class: number && "number" }, text);
  const words = [name, "Model", "State", "Progress"].map((text) => head(text));
  const heads = [...words, head("Items done", true), head("Created", true)];
  const rows = h("tbody", { role: "rowgroup" });
  const top = h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...heads));
  return { node: h("table", { class: "jobs", role: "table", "aria-label": label }, top, rows), rows };
}

/** One job. `label`, where it has one, names it in place of its id. */
export class Row {
  constructor(job, label = job.id) {
    this.label = label;
    this.badge = new Badge();
    this.model = h("td", { role: "cell", class: "c-model" });
    this.kind = h("span", { class: "muted" });
    this.bar = h("progress", { max: 1, value: 0, "aria-label": `Progress of ${label}` });
    this.items = h("td", { role: "cell", class: "c-items number" });
    this.time = h("time", { datetime: job.created_at, title: exactTime(job.created_at) });
    this.node = h(
      "tr",
      { role: "row" },
      h(
        "td",
        { role: "cell", class: "c-job" },
        h("a", { class: label === job.id && "mono", href: `/ui/jobs/${encodeURIComponent(job.id)}` }, label),
        this.kind,
      ),
      this.model,
      h("td", { role: "cell", class: "c-state" }, this.badge.node),
      h("td", { role: "cell", class: "c-progress" }, this.bar),
      this.items,
      h("td", { role: "cell", class: "c-created number" }, this.time),
    );
    this.update(job);
  }

  update(job) {
    if (this.job && this.job.state !== job.state) announce(`Job ${this.label} is ${stateLabel(job.state)}`);
    this.job = job;
    this.badge.set(job.state);
    setText(this.kind, kindOf(job));
    setText(this.model, networksOf(job));
    setText(this.items, workOf(job));
    setText(this.time, sinceThen(job.created_at));
    setAttribute(this.bar, "value", String(job.progress?.fraction ?? 0));
    setAttribute(this.bar, "data-state", job.state);
  }
}
