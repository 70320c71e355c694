// Who computes what of a job: its shards, the workers that hold them, and when each last gave a sign of life.

import { listShards } from "./api.js";
import { arrange, h, setAttribute, setText } from "./dom.js";
import { count, duration, exactTime, isFinal, measure, plural, sinceThen } from "./format.js";
import { Paged } from "./paged.js";
import { dataRow, dataTable, small } from "./tables.js";
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

/** What went wrong since it last got on. */
function wrong({ attempts, crashes, not_before: again }) {
  const pause = again ? (Date.parse(again) - Date.now()) / 1000 : 0;
  const found = [attempts && `${count(attempts)} failed`, crashes && `${count(crashes)} crashed`];
  if (pause > 0) found.push(`again in ${duration(pause)}`);
  return found.filter(Boolean).join(", ");
}

/** A shard's row. It stays while the shard is shown, and with it the focus. */
class ShardRow {
  constructor(shard) {
    this.badge = new Badge();
    this.code = h("code");
    this.worker = h("a", { href: "/ui/workers" }, this.code);
    this.nobody = h("span", {}, "–");
    [this.beat, this.steps, this.claims] = [h("span"), h("span"), h("span")];
    [this.lease, this.rate, this.wrong] = [small(), small(), small()];
    this.node = dataRow(HEADS, [
      [`#${shard.number}`, small(shard.last ? "made of all others" : itemsOf(shard))],
      this.badge.node,
      [this.worker, this.nobody],
      [this.beat, this.lease],
      [this.steps, this.rate],
      [this.claims, this.wrong],
    ]);
  }

  update(shard) {
    this.badge.set(shard.state);
    if (shard.state === "done") this.badge.node.dataset.tone = "good";
    this.worker.hidden = !shard.worker;
    this.nobody.hidden = Boolean(shard.worker);
    setText(this.code, shard.worker ?? "");
    this.live(shard);
    setText(this.steps, count(shard.steps_done));
    setText(this.rate, shard.rate ? `${measure(shard.rate)} steps/s` : "");
    setText(this.claims, plural(shard.epoch, "claim"));
    setText(this.wrong, wrong(shard));
    return this.node;
  }

  /** The last sign of life; a shard whose lease has run out is taken over by another worker. */
  live({ heartbeat_at: at, lease_expires_at: until }) {
    const left = at && until ? (Date.parse(until) - Date.now()) / 1000 : null;
    const over = left !== null && left <= 0;
    setText(this.beat, at ? sinceThen(at) : "–");
    setAttribute(this.beat, "title", at ? exactTime(at) : "");
    setText(this.lease, over ? "lease has run out" : left === null ? "" : `lease for ${duration(left)}`);
    this.lease.className = over ? "bad-text" : "muted";
  }
}

export class Attempts {
  constructor(place, id) {
    this.rows = new Map();
    this.table = dataTable("Shards and who computes them", HEADS, []);
    const read = async (asked, signal) => {
      const { shards, next_cursor: cursor } = await listShards(id, asked, signal);
      return { rows: shards, cursor };
    };
    const choice = { label: "State", options: STATES };
    this.list = new Paged(place, { name: "state", choice, word: "shard", read, draw: (shards) => this.draw(shards) });
  }

  draw(shards) {
    if (shards.length === 0) {
      const running = this.list.chosen.value === "running";
      return h("p", { class: "loading" }, running ? "No worker computes any of it now." : "No shard is in this state.");
    }
    const rows = shards.map((shard) => {
      if (!this.rows.has(shard.number)) this.rows.set(shard.number, new ShardRow(shard));
      return this.rows.get(shard.number).update(shard);
    });
    arrange(this.table.tBodies[0], rows);
    return this.table;
  }

  /** What runs, while the job goes on, until another state is chosen. */
  refresh(job, signal) {
    if (!this.begun) this.list.chosen.value = isFinal(job.state) ? "" : "running";
    this.begun = true;
    return this.list.refresh(signal, !isFinal(job.state));
  }
}
