// Which other job to compare one with.

import { listJobs } from "./api.js";
import { h, setText } from "./dom.js";
import { count, exactTime, plural, stateLabel } from "./format.js";
import { allItems, paired } from "./partners.js";
import { refusal } from "./ui.js";

export const compareUrl = (a, b) => `/ui/compare?${new URLSearchParams({ a, b })}`;
export const networksOf = (job) => job.networks?.join(", ") || job.id;

/** Items of each job that are looked at for common targets, and requests at a time. */
const LOOKED_AT = 100;
const AT_ONCE = 4;

/** Ask for another job of the same kind: those with common targets first, the others out of sight. */
export async function askOther(job) {
  const list = h("ul", { class: "others" });
  const rest = h("ul", { class: "others" });
  const said = h("p", { class: "muted", role: "status" }, "Looking for common targets…");
  const summary = h("summary");
  const others = h("details", { hidden: true }, summary, rest);
  const close = h("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Close");
  const title = h("h2", { id: "others-title" }, "Compare with");
  const dialog = h("dialog", { "aria-labelledby": title.id }, title, said, list, others, h("p", { class: "actions" }, close));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  try {
    const found = await commonWith(job, await othersOf(job), dialog);
    const some = found.filter(({ common }) => common > 0);
    const none = found.filter(({ common }) => common === 0);
    list.replaceChildren(...some.map((each) => choice(job, each)));
    rest.replaceChildren(...none.map((each) => choice(job, each)));
    others.hidden = none.length === 0;
    setText(summary, `${plural(none.length, "job")} of this kind without a common target`);
    setText(said, some.length ? "" : found.length ? "No other job has a target in common." : "There is no other job of this kind.");
  } catch (error) {
    said.replaceChildren(refusal(error));
  }
}

async function othersOf(job) {
  const parts = job.parent ? listJobs({ parent: job.parent, limit: 100 }) : { jobs: [] };
  const answers = await Promise.all([parts, listJobs({ kind: job.kind, limit: 50 })]);
  const jobs = answers.flatMap((answer) => answer.jobs).filter(({ id, kind }) => id !== job.id && kind === job.kind);
  return [...new Map(jobs.map((each) => [each.id, each])).values()];
}

/** How many of the first items of `job` each of the others has among its own first ones; most first. */
async function commonWith(job, others, dialog) {
  const own = await allItems(job.id, LOOKED_AT);
  const found = [];
  const left = [...others];
  const look = async () => {
    for (let other = left.shift(); other && dialog.open; other = left.shift())
      found.push({ other, common: paired(own, await allItems(other.id, LOOKED_AT)).length, of: own.length });
  };
  await Promise.all(Array.from({ length: AT_ONCE }, look));
  const newest = ({ other }) => others.indexOf(other);
  return found.sort((a, b) => b.common - a.common || newest(a) - newest(b));
}

function choice(job, { other, common, of }) {
  const first = job.items.total > of ? "first " : "";
  const about = `${common ? `${count(common)} of the ${first}${plural(of, "target")} in common, ` : ""}${stateLabel(other.state)}, ${exactTime(other.created_at)}, `;
  const link = h("a", { href: compareUrl(job.id, other.id) }, networksOf(other));
  return h("li", {}, link, h("small", { class: "muted" }, about, h("span", { class: "mono" }, other.id)));
}
