// Which other job to compare one with.

import { listJobs } from "./api.js";
import { h } from "./dom.js";
import { exactTime, stateLabel } from "./format.js";
import { refusal } from "./ui.js";

export const compareUrl = (a, b) => `/ui/compare?${new URLSearchParams({ a, b })}`;
export const networksOf = (job) => job.networks?.join(", ") || job.id;

/** Ask for another job of the same kind: first the parts of the same recipe, then the newest. */
export async function askOther(job) {
  const list = h("ul", { class: "others" }, h("li", { class: "muted" }, "Loading jobs…"));
  const close = h("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Close");
  const title = h("h2", { id: "others-title" }, "Compare with");
  const dialog = h("dialog", { "aria-labelledby": title.id }, title, list, h("p", { class: "actions" }, close));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  try {
    const others = await othersOf(job);
    list.replaceChildren(...others.map((other) => choice(job, other)));
    if (!others.length) list.append(h("li", { class: "muted" }, "There is no other job of this kind."));
  } catch (error) {
    list.replaceChildren(h("li", {}, refusal(error)));
  }
}

async function othersOf(job) {
  const parts = job.parent ? listJobs({ parent: job.parent, limit: 100 }) : { jobs: [] };
  const answers = await Promise.all([parts, listJobs({ kind: job.kind, limit: 50 })]);
  const jobs = answers.flatMap((answer) => answer.jobs).filter(({ id, kind }) => id !== job.id && kind === job.kind);
  return [...new Map(jobs.map((each) => [each.id, each])).values()];
}

function choice(job, other) {
  const about = `${stateLabel(other.state)}, ${exactTime(other.created_at)}, `;
  const link = h("a", { href: compareUrl(job.id, other.id) }, networksOf(other));
  return h("li", {}, link, h("small", { class: "muted" }, about, h("span", { class: "mono" }, other.id)));
}
