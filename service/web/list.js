// All jobs but the parts of recipes, newest first, live.

import { getJob, listJobs, Refused } from "./api.js";
import { arrange, h, mount } from "./dom.js";
import { count, isFinal, plural, stateLabel, STATES } from "./format.js";
import { poll } from "./poll.js";
import { jobTable, Row } from "./rows.js";
import { announce, hideBanner, refusal, showBanner } from "./ui.js";

const PAGE = 50;
/** Unfinished jobs below the first page that are asked for, one by one, in each turn. */
const STRAGGLERS = 10;

const EXAMPLE = {
  kind: "inversion",
  model: "cifar10-robust",
  preset: "cifar",
  targets: { source: "dataset", dataset: "cifar10-sample", indices: [0, 1, 2] },
};

class JobList {
  constructor(main) {
    this.ref = mount(main, "list-view");
    this.table = jobTable("Jobs, newest first", "Job");
    this.ref.place.after(this.table.node);
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
    this.table.node.hidden = true;
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
    const page = await listJobs({ limit: PAGE, state: this.state, top_level: true }, signal);
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
      const page = await listJobs({ limit: PAGE, state, cursor: this.cursor, top_level: true });
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
      this.table.rows,
      rows.map((row) => row.node),
    );
    this.table.node.hidden = rows.length === 0;
    this.ref.more.hidden = !this.cursor;
    if (rows.length > 0) this.ref.place.replaceChildren();
    else if (!this.ref.place.querySelector(".vacant"))
      this.ref.place.replaceChildren(this.state ? vacantFilter(this.state) : vacant());
    const active = rows.filter(({ job }) => !isFinal(job.state)).length;
    document.title = `${active ? `${count(active)} active · ` : ""}Jobs · robustreps`;
  }

  refused(error) {
    this.forget();
    this.table.node.hidden = true;
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
