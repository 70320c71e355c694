// When a job did what, why it does nothing now, and until when it may.

import { h } from "./dom.js";
import { clockTime, count, duration, exactTime, isFinal } from "./format.js";
import { Badge } from "./ui.js";

/** Events that are no attempt at a shard: of items, or of states that stand there anyway. */
const APART = /^(items?_.*|checkpointed|paused|cancelled|expired)$/;
const OF_LEVEL = { info: "ended", warning: "mixed", error: "bad" };

/** Log lines of the same event that follow each other are one entry; answers those in order of time. */
function grouped(lines) {
  const found = [];
  for (const { at, event, level } of lines.filter((line) => !APART.test(line.event)).toReversed()) {
    if (found.at(-1)?.event === event) found.at(-1).times += 1;
    else found.push({ at, event, level, times: 1 });
  }
  return found;
}

/** States, and between them what `lines` of the log, newest first, say of its attempts. */
export function timeline(job, lines = []) {
  const states = job.transitions.map(({ state, at }) => ({ at, state }));
  const moments = [...states, ...grouped(lines)].sort((a, b) => Date.parse(a.at) - Date.parse(b.at));
  return moments.map(({ at, state, event, level, times }, i) => {
    const before = i ? `+${duration((Date.parse(at) - Date.parse(moments[i - 1].at)) / 1000)}` : "";
    const badge = new Badge(state ?? event);
    if (event) badge.node.dataset.tone = OF_LEVEL[level] ?? "ended";
    if (times > 1) badge.node.append(` × ${count(times)}`);
    return h(
      "li",
      { class: event && "attempt" },
      badge.node,
      h("time", { datetime: at, title: exactTime(at) }, clockTime(at)),
      h("span", { class: "muted" }, before),
    );
  });
}

const QUIET = 20; // seconds; workers give a sign of life every few

/** That those who hold a job have been silent for a while; "" if they have not. */
export function silence({ heartbeat_at: at, state }) {
  const seconds = at && !isFinal(state) ? (Date.now() - Date.parse(at)) / 1000 : 0;
  return seconds > QUIET ? `no sign of life for ${duration(seconds)}` : "";
}

/** Why nothing moves, and how far planning is; "" if there is nothing to say. */
export function standing(job) {
  const { waiting, planning, state } = job;
  const quiet = silence(job);
  const said = quiet ? [`N${quiet.slice(1)}; its work is taken over once its lease has run out`] : [];
  if (planning && state === "validating") {
    const of = planning.total === null ? "" : ` of ${count(planning.total)}`;
    said.push(`Planning: ${count(planning.entries)}${of} entries looked at, ${count(planning.invalid)} refused`);
  } else if (waiting) said.push(`Waiting: ${waiting.detail}`);
  const starts = waiting?.starts_in_seconds;
  if (starts !== null && starts !== undefined) said.push(starts > 0 ? `may begin in about ${duration(starts)}` : "may begin now");
  return said.join("; ");
}

/** Until when a job may go on, and how long that is. */
export function deadlineText({ deadline, state }) {
  const left = (Date.parse(deadline) - Date.now()) / 1000;
  return `Deadline ${exactTime(deadline)}${left > 0 && !isFinal(state) ? `, ${duration(left)} left` : ""}`;
}
