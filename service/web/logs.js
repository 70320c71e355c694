// What happened to a job, line by line, newest first: claims, releases, lost leases, failures, changes of mind.

import { listLogs } from "./api.js";
import { h } from "./dom.js";
import { clockTime, exactTime, stateLabel } from "./format.js";
import { Paged } from "./paged.js";
import { dataTable, small } from "./tables.js";

const LEVELS = { "": "All", info: "Info", warning: "Warnings", error: "Errors" };
const HEADS = ["What", "When", "Shard", "Worker"];

const said = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));

/** What a line tells beside its event, as words. */
const details = (detail) =>
  Object.entries(detail ?? {})
    .filter(([, value]) => value !== null && value !== false)
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${said(value)}`)
    .join(" · ");

function row({ at, level, event, shard, epoch, worker, detail }) {
  return [
    [h("span", { class: "event", "data-level": level }, stateLabel(event)), small(details(detail))],
    h("time", { datetime: at, title: exactTime(at) }, `${exactTime(at).slice(5, 10)} ${clockTime(at)}`),
    shard === null ? "–" : [`#${shard}`, small(epoch === null ? "" : `claim ${epoch}`)],
    worker ? h("code", {}, worker) : "–",
  ];
}

const draw = (lines) =>
  lines.length
    ? dataTable("What happened, newest first", HEADS, lines.map(row))
    : h("p", { class: "loading" }, "Nothing to tell yet.");

export class Logs {
  constructor(place, id) {
    const read = async (asked, signal) => {
      const { logs, next_cursor: cursor } = await listLogs(id, asked, signal);
      return { rows: logs, cursor };
    };
    const choice = { label: "Level", options: LEVELS };
    this.list = new Paged(place, { name: "level", choice, word: "line", read, draw });
  }

  refresh(job, signal) {
    return this.list.refresh(signal);
  }
}
