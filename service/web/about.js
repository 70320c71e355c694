// What a job has beside its parameters: description, labels, metadata, priority, how long it is kept; and their editing.

import { patchJob } from "./api.js";
import { changes, h, setText } from "./dom.js";
import { jobLink, parameterRows } from "./facts.js";
import { duration, exactTime, isFinal } from "./format.js";
import { deadlineText } from "./moments.js";
import { mergePatch, written } from "./request.js";
import { announce, note, refusal } from "./ui.js";

const labelText = ([name, value]) => (value ? `${name}=${value}` : name);

/** A label leads to the jobs that have it. */
const labelLink = (label) =>
  h("a", { class: "label", href: `/ui/?${new URLSearchParams({ label: labelText(label) })}` }, labelText(label));

const DAY = 86_400; // seconds

/** `end` is when the job was over, where that moment is not known yet. */
function keptText({ retention_seconds: seconds, expires_at: at }, end = null) {
  if (end && seconds !== null) at = new Date(Date.parse(end) + 1000 * seconds).toISOString();
  if (at) return `Deleted ${exactTime(at)}`;
  return seconds === null ? null : `Deleted ${duration(seconds)} after its end`;
}

export class About {
  /** `changed(job)` is called with the job as it is after an edit. */
  constructor(place, changed) {
    this.place = place;
    this.changed = changed;
    this.news = changes();
    this.edit = h("button", { type: "button", class: "small", onclick: () => this.open() }, "Edit");
    this.body = h("div", { class: "about-body" });
    const head = h("div", { class: "panel-head" }, h("h2", { id: "about-title" }, "About"), this.edit);
    place.replaceChildren(head, this.body);
  }

  show(job) {
    this.job = job;
    const { description, labels, metadata, priority, deadline, cloned_from: from } = job;
    const kept = keptText(job);
    const until = deadline && deadlineText(job);
    if (!this.news([description, labels, metadata, priority, until, from, kept])) return;
    const line = (text) => text && h("p", { class: "muted" }, text);
    const lines = [
      description && h("p", { class: "description" }, description),
      Object.keys(labels).length > 0 && h("p", { class: "labels" }, ...Object.entries(labels).map(labelLink)),
      line(priority !== "normal" && `${priority[0].toUpperCase()}${priority.slice(1)} priority`),
      until && h("p", { class: "muted", "data-ref": "deadline" }, until),
      line(kept),
      from && h("p", { class: "muted" }, "Cloned from ", jobLink(from)),
      Object.keys(metadata).length > 0 &&
        h("table", { class: "pairs", "aria-label": "Metadata" }, ...parameterRows(metadata)),
    ].filter(Boolean);
    this.body.replaceChildren(...(lines.length ? lines : [h("p", { class: "muted" }, "No description, no labels.")]));
  }

  open() {
    new Editor(this.job, (job) => {
      this.changed(job);
      announce("The job is changed");
      this.edit.focus();
    });
  }
}

/** The fields of the dialog: how the job's value is written, and how what was written is read. */
const FIELDS = {
  description: {
    label: "Description",
    node: () => h("textarea", { rows: 3, maxlength: 500 }),
    write: (value) => value ?? "",
    read: (text) => text.trim() || null,
  },
  labels: {
    label: "Labels, a line each, as name=value",
    node: () => h("textarea", { rows: 3, class: "mono", spellcheck: "false" }),
    write: (value) => Object.entries(value).map(labelText).join("\n"),
    read: (text) => Object.fromEntries(text.split("\n").map((line) => line.trim()).filter(Boolean).map(labelOf)),
  },
  metadata: {
    label: "Metadata, as JSON",
    node: () => h("textarea", { rows: 3, class: "mono", spellcheck: "false" }),
    write: (value) => (Object.keys(value).length ? written(value) : ""),
    read: (text) => (text.trim() ? JSON.parse(text) : {}),
  },
  priority: {
    label: "Priority",
    node: () => h("select", {}, ...["low", "normal", "high"].map((value) => h("option", { value }, value))),
    write: (value) => value,
    read: (text) => text,
  },
  deadline: {
    label: "Deadline, such as 2030-01-31T12:00:00Z",
    node: () => h("input", { type: "text", autocomplete: "off" }),
    write: (value) => value ?? "",
    read: (text) => text.trim() || null,
  },
  retention_seconds: {
    label: "Deleted after its end in days, such as 1.5; empty: kept",
    node: () => h("input", { type: "number", min: 0, step: "any" }),
    write: (value) => (value === null ? "" : Number((value / DAY).toFixed(6))),
    read: (text) => (text ? Math.round(Number(text) * DAY) : null),
    say: (seconds, { finished_at: end }) => keptText({ retention_seconds: seconds, expires_at: null }, end),
  },
};
const OF_RECIPE = ["priority", "deadline", "retention_seconds"];

function labelOf(line) {
  const at = line.indexOf("=");
  return at < 0 ? [line, ""] : [line.slice(0, at), line.slice(at + 1)];
}

class Editor {
  constructor(job, saved) {
    this.job = job;
    this.saved = saved;
    // A part has some of them from its recipe; what is over has no deadline to keep.
    const names = Object.keys(FIELDS).filter((name) => !(job.parent && OF_RECIPE.includes(name)));
    this.names = names.filter((name) => !(name === "deadline" && isFinal(job.state)));
    this.inputs = Object.fromEntries(this.names.map((name) => [name, FIELDS[name].node()]));
    for (const [name, input] of Object.entries(this.inputs)) input.value = FIELDS[name].write(job[name]);
    this.answer = h("div", { role: "alert", class: "answer" });
    const field = (name) => h("label", { class: "stacked" }, FIELDS[name].label, this.inputs[name], this.said(name));
    const close = h("button", { type: "button", onclick: () => this.node.close() }, "Leave it");
    this.save = h("button", { class: "solid" }, "Save");
    const form = h("form", { onsubmit: (event) => this.submit(event) }, h("h2", { id: "edit-title" }, "Edit the job"));
    form.append(...this.names.map(field), this.answer, h("p", { class: "actions" }, close, this.save));
    this.node = h("dialog", { "aria-labelledby": "edit-title" }, form);
    this.node.addEventListener("close", () => this.node.remove());
    document.body.append(this.node);
    this.node.showModal();
  }

  /** What a field comes to, as it is filled in; null for one that says it itself. */
  said(name) {
    const { say, read } = FIELDS[name];
    if (!say) return null;
    const input = this.inputs[name];
    const words = h("small", { class: "muted", role: "status" });
    const tell = () => setText(words, (input.validity.valid && say(read(input.value), this.job)) || "");
    input.addEventListener("input", tell);
    tell();
    return words;
  }

  async submit(event) {
    event.preventDefault();
    this.save.disabled = true;
    setText(this.answer, "");
    try {
      const was = Object.fromEntries(this.names.map((name) => [name, this.job[name]]));
      const wanted = Object.fromEntries(this.names.map((name) => [name, FIELDS[name].read(this.inputs[name].value)]));
      const job = await patchJob(this.job.id, mergePatch(was, wanted));
      this.node.close();
      this.saved(job);
    } catch (error) {
      const odd = error instanceof SyntaxError;
      this.answer.replaceChildren(odd ? note("bad", "Metadata is no JSON", error.message) : refusal(error));
    } finally {
      this.save.disabled = false;
    }
  }
}
