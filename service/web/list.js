// All jobs, newest first, live.

import { getJob, listJobs, Refused } from "./api.js";
import { arrange, h, mount, setAttribute, setText } from "./dom.js";
import { count, exactTime, isFinal, itemsDone, plural, sinceThen, stateLabel, STATES } from "./format.js";
import { poll } from "./poll.js";
import { announce, Badge, hideBanner, refusal, showBanner } from "./ui.js";

const PAGE = 50;
/** Unfinished jobs below the first page that are asked for, one by one, in each turn. */
const STRAGGLERS = 10;

const EXAMPLE = {
  kind: "inversion",
  model: "cifar10-robust",
  preset: "cifar",
  targets: { source: "dataset", dataset: "cifar10-sample", indices: [0, 1, 2] },
};

class Row {
  constructor(job) {
    this.badge = new Badge();
    this.model = h("td", { role: "cell", class: "c-model" });
    this.kind = h("span", { class: "muted" });
    this.bar = h("progress", { max: 1, value: 0, "aria-label": `Progress of ${job.id}` });
    this.items = h("td", { role: "cell", class: "c-items number" });
    this.time = h("time", { datetime: job.created_at, title: exactTime(job.created_at) });
    this.node = h(
      "tr",
      { role: "row" },
      h(
        "td",
        { role: "cell", class: "c-job" },
        h("a", { class: "mono", href: `/ui/jobs/${encodeURIComponent(job.id)}` }, job.id),
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
    if (this.job && this.job.state !== job.state) announce(`Job ${job.id} is ${stateLabel(job.state)}`);
    this.job = job;
    const done = itemsDone(job.items);
    this.badge.set(job.state);
    setText(this.kind, String(job.kind));
    setText(this.model, String(job.parameters?.model ?? "–"));
    setText(this.items, `${count(done)} / ${count(job.items.total)}`);
    setText(this.time, sinceThen(job.created_at));
    setAttribute(this.bar, "value", String(job.progress?.fraction ?? done / (job.items.total || 1)));
    setAttribute(this.bar, "data-state", job.state);
  }
}

class JobList {
  constructor(main) {
    this.ref = mount(main, "list-view");
    this.ref.filter.append(
      h("option", { value: "" }, "All"),
      ...Object.keys(STATES).map((state) => h("option", { value: state }, stateLabel(state))),
    );
    this.ref.filter.addEventListener("change", () => this.choose(this.ref.filter.value));
    this.ref.more.addEventListener("click", () => this.loadMore());
    window.addEventListener("popstate", () => this.start());
    this.start();
  }

  choose(state) {
    window.history.pushState(null, "", state ? `/ui/?${new URLSearchParams({ state })}` : "/ui/");
    this.start();
  }

  /** Begin afresh with the filter in the URL. */
  start() {
    this.poller?.stop();
    this.state = new URLSearchParams(window.location.search).get("state") ?? "";
    if (this.state && !STATES[this.state]) this.ref.filter.append(h("option", { value: this.state }, this.state));
    this.ref.filter.value = this.state;
    this.forget();
    this.ref.table.hidden = true;
    this.ref.more.hidden = true;
    this.ref.place.replaceChildren(h("p", { class: "loading" }, "Loading jobs…"));
    this.poller = poll((signal) => this.refresh(signal), {
      up: hideBanner,
      down: (error, retry) => showBanner(error.message, retry),
      refused: (error) => this.refused(error),
    });
  }

  forget() {
    this.rows = new Map();
    this.cursor = undefined; // then the cursor after the oldest job that is shown; null where there is no older one
  }

  async refresh(signal) {
    const page = await listJobs({ limit: PAGE, state: this.state }, signal);
    const overlaps = page.jobs.some((job) => this.rows.has(job.id));
    // More new jobs than a page holds: what we have no longer joins on, so start over from the top.
    if (!overlaps || page.next_cursor === null) {
      const kept = new Set(page.jobs.map((job) => job.id));
      for (const id of this.rows.keys()) if (!kept.has(id)) this.rows.delete(id);
      this.cursor = undefined;
    }
    if (this.cursor === undefined) this.cursor = page.next_cursor;
    this.take(page.jobs);
    await this.refreshStragglers(new Set(page.jobs.map((job) => job.id)), signal);
    this.show();
  }

  async refreshStragglers(fresh, signal) {
    const open = [...this.rows.values()].filter(({ job }) => !fresh.has(job.id) && !isFinal(job.state));
    open.sort((a, b) => (a.asked ?? 0) - (b.asked ?? 0));
    for (const row of open.slice(0, STRAGGLERS)) {
      row.asked = performance.now();
      await this.refreshOne(row, signal);
    }
  }

  async refreshOne(row, signal) {
    try {
      const job = await getJob(row.job.id, signal);
      row.update(job);
      if (this.state && job.state !== this.state) this.rows.delete(job.id);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 404) throw error;
      this.rows.delete(row.job.id);
    }
  }

  take(jobs) {
    for (const job of jobs) {
      const row = this.rows.get(job.id);
      if (row) row.update(job);
      else this.rows.set(job.id, new Row(job));
    }
  }

  async loadMore() {
    this.ref.more.disabled = true;
    const state = this.state;
    try {
      const page = await listJobs({ limit: PAGE, state, cursor: this.cursor });
      if (state !== this.state) return;
      this.cursor = page.next_cursor;
      this.take(page.jobs);
      this.show();
      announce(`${plural(this.rows.size, "job")} shown`);
    } catch (error) {
      showBanner(error.message, () => this.poller.now());
    } finally {
      this.ref.more.disabled = false;
    }
  }

  show() {
    const rows = [...this.rows.values()].sort((a, b) => b.job.created_at.localeCompare(a.job.created_at));
    arrange(
      this.ref.rows,
      rows.map((row) => row.node),
    );
    this.ref.table.hidden = rows.length === 0;
    this.ref.more.hidden = !this.cursor;
    if (rows.length > 0) this.ref.place.replaceChildren();
    else if (!this.ref.place.querySelector(".vacant"))
      this.ref.place.replaceChildren(this.state ? vacantFilter(this.state) : vacant());
    const active = rows.filter(({ job }) => !isFinal(job.state)).length;
    document.title = `${active ? `${count(active)} active · ` : ""}Jobs · robustreps`;
  }

  refused(error) {
    this.forget();
    this.ref.table.hidden = true;
    this.ref.place.replaceChildren(refusal(error));
  }
}

function vacantFilter(state) {
  return h(
    "div",
    { class: "vacant" },
    h("h2", {}, `No job is ${stateLabel(state)}`),
    h("p", {}, h("a", { href: "/ui/" }, "Show all jobs")),
  );
}

function vacant() {
  const body = Object.entries(EXAMPLE)
    .map(([name, value]) => `    "${name}": ${JSON.stringify(value)}`)
    .join(",\n");
  const url = `${window.location.origin}/v1/jobs`;
  const command = [`curl ${url}`, "-H 'Content-Type: application/json'", `-d '{\n${body}\n  }'`].join(" \\\n  ");
  return h(
    "div",
    { class: "vacant" },
    h("h2", {}, "No jobs yet"),
    h("p", {}, "Post one, and it appears here:"),
    h("pre", { tabindex: 0, role: "region", "aria-label": "Example command" }, command),
  );
}

export const listView = (main) => new JobList(main);
