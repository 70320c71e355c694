// All jobs but the parts of recipes, newest first, live.

import { getJob, listJobs, Refused } from "./api.js";
import { Bulk } from "./bulk.js";
import { arrange, h, mount, setAttribute } from "./dom.js";
import { asked, canonical, Filters, without } from "./filters.js";
import { count, isFinal, plural } from "./format.js";
import { addKeys } from "./keyboard.js";
import { poll } from "./poll.js";
import { jobTable, Row } from "./rows.js";
import { announce, hideBanner, note, refusal, showBanner } from "./ui.js";
import { Views } from "./views.js";

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
    this.rows = new Map();
    const go = (query, typing) => this.go(query, typing);
    this.filters = new Filters(this.ref.filters, this.ref["more-filters"], go);
    this.views = new Views(this.ref.views, go);
    const { bulk, notices } = this.ref;
    this.bulk = new Bulk(bulk, notices, () => [...this.rows.values()], () => this.poller.now());
    this.table = jobTable("Jobs, newest first", "Job", this.bulk.all);
    this.ref.place.after(this.table.node);
    this.ref.more.addEventListener("click", () => this.loadMore());
    window.addEventListener("popstate", () => this.start());
    addKeys([{ key: "x", label: "Select the job", run: () => this.selectFocused() }]);
    this.start();
  }

  go(query, typing = false) {
    if (query === this.query) return;
    this.ref.notices.replaceChildren();
    const url = query ? `/ui/?${query}` : "/ui/";
    if (typing) window.history.replaceState(null, "", url);
    else window.history.pushState(null, "", url);
    this.start();
  }

  selectFocused() {
    document.activeElement.closest(".jobs tbody tr")?.querySelector("input").click();
  }

  /** Begin afresh with the filters in the URL; what is shown stays until there is an answer. */
  start() {
    this.poller?.stop();
    this.query = canonical(window.location.search);
    this.only = { ...asked(this.query), limit: PAGE, top_level: true };
    this.filters.show(this.query);
    this.views.show(this.query);
    this.stale = true;
    setAttribute(this.table.node, "aria-busy", "true");
    if (this.rows.size === 0) this.table.node.hidden = true;
    if (this.rows.size === 0) this.ref.place.replaceChildren(h("p", { class: "loading" }, "Loading jobs…"));
    this.ref.more.hidden = true;
    this.poller = poll((signal) => this.refresh(signal), {
      up: hideBanner,
      down: (error, retry) => showBanner(error.message, retry),
      refused: (error) => this.refused(error),
    });
  }

  forget() {
    this.rows.clear();
    this.cursor = undefined; // then the cursor after the oldest job that is shown; null where there is no older one
    this.stale = false;
    this.table.node.removeAttribute("aria-busy");
  }

  async refresh(signal) {
    const page = await listJobs(this.only, signal);
    if (this.stale) this.forget();
    const fresh = new Set(page.jobs.map(({ id }) => id));
    const overlaps = page.jobs.some(({ id }) => this.rows.has(id));
    // More new jobs than a page holds: what we have no longer joins on, so start over from the top.
    if (!overlaps || page.next_cursor === null) this.cursor = undefined;
    // What the page would have, and has not, was deleted or is no longer what is asked for.
    const oldest = this.cursor === undefined ? "" : page.jobs.at(-1).created_at;
    for (const [id, { job }] of this.rows) if (!fresh.has(id) && job.created_at > oldest) this.rows.delete(id);
    if (this.cursor === undefined) this.cursor = page.next_cursor;
    this.take(page.jobs);
    await this.refreshStragglers(fresh, signal);
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
      const states = this.only.state;
      if (states.length > 0 && !states.includes(job.state)) this.rows.delete(job.id);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 404) throw error;
      this.rows.delete(row.job.id);
    }
  }

  take(jobs) {
    for (const job of jobs) {
      const row = this.rows.get(job.id);
      if (row) row.update(job);
      else this.rows.set(job.id, new Row(job, null, this.bulk.box(job.id)));
    }
  }

  async loadMore() {
    this.ref.more.disabled = true;
    const { query } = this;
    try {
      const page = await listJobs({ ...this.only, cursor: this.cursor });
      if (query !== this.query) return;
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
      this.ref.place.replaceChildren(this.query ? vacantFilter() : vacant());
    this.bulk.update();
    const active = rows.filter(({ job }) => !isFinal(job.state)).length;
    document.title = `${active ? `${count(active)} active · ` : ""}Jobs · robustreps`;
  }

  /** A filter that there is not is left out, and said; anything else that is refused ends the list. */
  refused(error) {
    const [query, wrong] = without(this.query, error.errors ?? []);
    if (wrong.length) {
      window.history.replaceState(null, "", query ? `/ui/?${query}` : "/ui/");
      const text = `The list has no filter ${wrong.map(([name, value]) => `${name.replaceAll("_", " ")} “${value}”`).join(", ")}.`;
      this.ref.notices.replaceChildren(note("mixed", text, "It is left out."));
      return this.start();
    }
    this.forget();
    this.table.node.hidden = true;
    this.ref.place.replaceChildren(refusal(error));
  }
}

function vacantFilter() {
  const all = h("p", {}, h("a", { href: "/ui/" }, "Show all jobs"));
  return h("div", { class: "vacant" }, h("h2", {}, "No job matches"), all);
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
    h("p", {}, h("a", { href: "/ui/new", class: "button" }, "New job")),
    h("p", {}, "Or post one:"),
    h("pre", { tabindex: 0, role: "region", "aria-label": "Example command" }, command),
  );
}

export const listView = (main) => new JobList(main);
