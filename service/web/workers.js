// Who computes: the worker processes of the last day, what they hold, and what waits for them.

import { listWorkers } from "./api.js";
import { arrange, changes, h, mount, setAttribute, setText } from "./dom.js";
import { jobLink } from "./facts.js";
import { count, exactTime, measure, percent, plural, sinceThen } from "./format.js";
import { poll } from "./poll.js";
import { small } from "./tables.js";
import { hideBanner, note, refusal, showBanner } from "./ui.js";

const HEADS = ["Worker", "State", "Shards", "Batch", "Device busy", "Image-steps/s", "Last seen"];
const TONES = { alive: "good", silent: "bad", ended: "ended" };

const jobOf = (shard) => shard.slice(0, shard.lastIndexOf("."));

/** A bar with words under it. */
class Gauge {
  constructor(label) {
    this.bar = h("progress", { max: 1, value: 0, "aria-label": label });
    this.text = h("span", { class: "pace" });
    this.node = h("span", { class: "gauge" }, this.bar, this.text);
  }

  set(share, text) {
    setAttribute(this.bar, "value", String(share));
    setText(this.text, text);
  }
}

class WorkerRow {
  constructor(worker) {
    const cell = (name, ...nodes) => h("td", { role: "cell", "data-label": name }, h("span", {}, ...nodes));
    this.state = h("span", { class: "badge" });
    this.batch = new Gauge(`Batch of ${worker.id}`);
    this.busy = new Gauge(`Device of ${worker.id} busy`);
    this.shards = h("span");
    this.rate = h("span");
    this.seen = h("time");
    this.about = small();
    this.news = changes();
    const parts = [this.state, this.shards, this.batch.node, this.busy.node, this.rate, this.seen];
    this.node = h(
      "tr",
      { role: "row" },
      h("th", { role: "rowheader", scope: "row" }, h("span", { class: "mono" }, worker.id), this.about),
      ...parts.map((part, i) => cell(HEADS[i + 1], part)),
    );
    this.update(worker);
  }

  update(worker) {
    const here = worker.state === "alive";
    this.node.classList.toggle("muted", !here);
    this.state.dataset.tone = TONES[worker.state];
    setText(this.state, worker.state);
    setText(this.about, `${worker.device}, ${worker.version}, since ${exactTime(worker.started_at)}`);
    const limit = worker.batch_limit;
    const rows = here ? worker.batch_rows : 0;
    this.batch.set(limit ? rows / limit : 0, limit ? `${count(rows)} of ${plural(limit, "row")}` : plural(rows, "row"));
    this.busy.set(here ? worker.busy : 0, here ? percent(worker.busy) : "–");
    setText(this.rate, here ? measure(worker.image_steps_per_second) : "–");
    setText(this.seen, sinceThen(worker.seen_at));
    setAttribute(this.seen, "datetime", worker.seen_at);
    setAttribute(this.seen, "title", exactTime(worker.seen_at));
    if (this.news([worker.shards, worker.threads])) this.shards.replaceChildren(...held(worker));
  }
}

/** How many shards a worker holds, and of which jobs. */
function held({ shards, threads }) {
  const jobs = [...Map.groupBy(shards, jobOf)];
  const links = jobs.map(([id, own]) => {
    return h("span", { class: "line-of" }, jobLink(id), own.length > 1 ? ` × ${count(own.length)}` : "");
  });
  return [`${count(shards.length)} of ${count(threads)}`, ...links];
}

/** What stands above the table, in pairs of a name and a value. */
function totals({ workers, queue }) {
  const alive = workers.filter(({ state }) => state === "alive");
  const sum = (field) => alive.reduce((all, worker) => all + field(worker), 0);
  return {
    Alive: plural(alive.length, "worker"),
    "Shards held": `${count(sum(({ shards }) => shards.length))} of ${count(sum(({ threads }) => threads))}`,
    "Image-steps/s": measure(sum((worker) => worker.image_steps_per_second)),
    "In the queue": plural(queue.shards, "shard"),
    "To do there": `${measure(queue.image_steps)} image-steps`,
  };
}

class WorkerList {
  constructor(main) {
    this.ref = mount(main, "workers-view");
    this.rows = new Map();
    this.numbers = new Map();
    this.news = changes();
    this.ref.heads.append(...HEADS.map((text) => h("th", { role: "columnheader", scope: "col" }, text)));
    poll((signal) => this.refresh(signal), {
      up: hideBanner,
      down: (error, retry) => showBanner(error.message, retry),
      refused: (error) => this.ref.notices.replaceChildren(refusal(error)),
    });
  }

  async refresh(signal) {
    const found = await listWorkers(signal);
    const { workers, queue } = found;
    const alive = workers.filter(({ state }) => state === "alive").length;
    document.title = `${plural(alive, "worker")} · robustreps`;
    const stuck = alive === 0 && queue.shards > 0;
    if (this.news([alive > 0, stuck, workers.length > 0])) {
      const start = "Start one by `robustreps worker`, with the settings of the API.";
      const told = stuck ? note("bad", "No worker is alive, and jobs wait", start) : note("mixed", "No worker is alive", start);
      this.ref.notices.replaceChildren(...(alive === 0 ? [told] : []));
    }
    for (const [name, value] of Object.entries(totals(found))) this.tell(name, value);
    for (const worker of workers) {
      if (this.rows.has(worker.id)) this.rows.get(worker.id).update(worker);
      else this.rows.set(worker.id, new WorkerRow(worker));
    }
    arrange(this.ref.rows, workers.map(({ id }) => this.rows.get(id).node));
    this.ref.place.hidden = workers.length === 0;
    this.ref.loading.hidden = true;
  }

  tell(name, value) {
    if (!this.numbers.has(name)) {
      this.numbers.set(name, h("dd"));
      this.ref.totals.append(h("div", {}, h("dt", {}, name), this.numbers.get(name)));
    }
    setText(this.numbers.get(name), value);
  }
}

export const workerList = (main) => new WorkerList(main);
