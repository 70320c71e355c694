// Who computes what of a job: its shards, the workers that hold them, and when each last gave a sign of life.

import { listShards } from "./api.js";
import { h } from "./dom.js";
import { count, duration, exactTime, isFinal, measure, plural, sinceThen } from "./format.js";
import { Paged } from "./paged.js";
import { dataTable, small } from "./tables.js";
import { Badge } from "./ui.js";

const STATES = {
  "": "All",
  running: "Running",
  queued: "Queued",
  waiting: "Waiting for the rest",
  done: "Done",
  cancelled: "Cancelled",
};
const HEADS = ["Shard", "State", "Worker", "Heartbeat", "Steps", "Attempts"];

const itemsOf = ({ first_item: first, items }) => (items === 1 ? `item ${first}` : `items ${first} to ${first + items - 1}`);

/** The last sign of life; a shard whose lease has run out is taken over by another worker. */
function heartbeat({ heartbeat_at: at, lease_expires_at: until }) {
  if (!at) return "–";
  const left = until && (Date.parse(until) - Date.now()) / 1000;
  const time = h("time", { datetime: at, title: exactTime(at) }, sinceThen(at));
  if (!until) return time;
  return [time, left > 0 ? small(`lease for ${duration(left)}`) : small(h("span", { class: "bad-text" }, "lease has run out"))];
}

function badge(state) {
  const { node } = new Badge(state);
  if (state === "done") node.dataset.tone = "good";
  return node;
}

/** How often it was claimed, and what went wrong since it last got on. */
function tries({ epoch, attempts, crashes, not_before: again }) {
  const pause = again ? (Date.parse(again) - Date.now()) / 1000 : 0;
  const wrong = [attempts && `${count(attempts)} failed`, crashes && `${count(crashes)} crashed`];
  if (pause > 0) wrong.push(`again in ${duration(pause)}`);
  return [plural(epoch, "claim"), small(wrong.filter(Boolean).join(", "))];
}

const row = (shard) => [
  [`#${shard.number}`, small(shard.last ? "made of all others" : itemsOf(shard))],
  badge(shard.state),
  shard.worker ? h("a", { href: "/ui/workers" }, h("code", {}, shard.worker)) : "–",
  heartbeat(shard),
  [count(shard.steps_done), small(shard.rate ? `${measure(shard.rate)} steps/s` : "")],
  tries(shard),
];

export class Attempts {
  constructor(place, id) {
    const read = async (asked, signal) => {
      const { shards, next_cursor: cursor } = await listShards(id, asked, signal);
      return { rows: shards, cursor };
    };
    const draw = (shards) => {
      if (shards.length > 0) return dataTable("Shards and who computes them", HEADS, shards.map(row));
      const running = this.list.chosen.value === "running";
      return h("p", { class: "loading" }, running ? "No worker computes any of it now." : "No shard is in this state.");
    };
    const choice = { label: "State", options: STATES };
    this.list = new Paged(place, { name: "state", choice, word: "shard", read, draw });
  }

  /** What runs, while the job goes on, until another state is chosen. */
  refresh(job, signal) {
    if (!this.begun) this.list.chosen.value = isFinal(job.state) ? "" : "running";
    this.begun = true;
    return this.list.refresh(signal, !isFinal(job.state));
  }
}
