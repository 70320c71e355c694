// /ui/compare?a=ID&b=ID: two jobs item by item, each item beside the other job's for the same target.

import { getJob, listJobs } from "./api.js";
import { changes, h, setText } from "./dom.js";
import { parametersOf } from "./facts.js";
import { exactTime, isFinal, stateLabel } from "./format.js";
import { OrderBar } from "./order.js";
import { PairCard, PairDetail } from "./pair.js";
import { Partners } from "./partners.js";
import { Pages } from "./pages.js";
import { views } from "./picture.js";
import { poll } from "./poll.js";
import { Badge, hideBanner, messagePage, refusal, showBanner } from "./ui.js";
import { VirtualGrid } from "./virtual.js";

const jobUrl = (id) => `/ui/jobs/${encodeURIComponent(id)}`;
export const compareUrl = (a, b) => `/ui/compare?${new URLSearchParams({ a, b })}`;
const networksOf = (job) => job.networks?.join(", ") || job.id;

/** Parameters of which two jobs have different ones, in rows of a table. */
function differences(jobs) {
  const [a, b] = jobs.map(parametersOf);
  const names = [...new Set([...Object.keys(a), ...Object.keys(b)])].filter((name) => !name.endsWith("_digest"));
  const text = (value) => (value === undefined || value === null ? "–" : JSON.stringify(value).replaceAll('"', "").slice(0, 200));
  return names
    .filter((name) => JSON.stringify(a[name]) !== JSON.stringify(b[name]))
    .map((name) => h("tr", {}, ...[name, text(a[name]), text(b[name])].map((each, i) => h(i ? "td" : "th", {}, each))));
}

class Compare {
  constructor(main, ids) {
    this.main = main;
    this.ids = ids;
    this.cards = new Map(); // by position
    this.pairs = new Map(); // by the first job's index
    this.changed = changes();
    this.poller = poll((signal) => this.refresh(signal), {
      up: hideBanner,
      down: (error, retry) => showBanner(error.message, retry),
      refused: (error) => this.refused(error),
    });
    main.replaceChildren(h("p", { class: "loading" }, "Loading both jobs…"));
    document.title = "Comparison · robustreps";
  }

  refused(error) {
    hideBanner();
    if (error.status === 404) messagePage(this.main, "No such job", "One of these jobs is not there, or no longer kept.");
    else this.main.replaceChildren(refusal(error));
  }

  async refresh(signal) {
    const jobs = await Promise.all(this.ids.map((id) => getJob(id, signal)));
    if (!this.jobs) this.begin(jobs);
    this.jobs = jobs;
    jobs.forEach((job, i) => this.badges[i].set(job.state));
    const over = jobs.every(({ state }) => isFinal(state));
    if (this.changed(jobs.map(({ state, items }) => [state, items]))) this.pages.again(true);
    this.showCounts();
    await this.pages.want(...this.grid.range);
    return !over;
  }

  begin(jobs) {
    const models = jobs.map(networksOf);
    this.names = models[0] === models[1] ? ["first", "second"] : models;
    this.badges = jobs.map(() => new Badge());
    const rows = differences(jobs);
    const heads = jobs.map((job, i) =>
      h("th", { scope: "col" }, h("a", { href: jobUrl(job.id) }, models[i]), " ", this.badges[i].node,
        h("small", { class: "mono" }, job.id)),
    ); // prettier-ignore
    const table = h("table", { class: "sides", "aria-label": "The two jobs" },
      h("thead", {}, h("tr", {}, h("td", {}), ...heads)), h("tbody", {}, ...rows)); // prettier-ignore
    const swap = h("a", { href: compareUrl(...this.ids.toReversed()) }, "Swap them");
    this.note = h("div", { class: "loading" });
    this.bar = new OrderBar(() => this.start());
    this.list = h("ul", { class: "grid", "aria-label": "Items" });
    this.grid = new VirtualGrid(this.list, "Items", {
      make: (position) => this.card(position),
      drop: (position) => this.drop(position),
      seen: (first, end) => this.look(first, end),
    });
    this.detail = new PairDetail(this.names, { step: (by) => this.step(by), closed: () => this.grid.focus(this.position) });
    const crumb = h("nav", { "aria-label": "Breadcrumb", class: "crumb" }, h("a", { href: "/ui/" }, "Jobs"), " / comparison");
    const items = h("div", { class: "items" }, h("section", { "aria-label": "Items" }, this.bar.node, this.grid.node, this.note));
    this.main.replaceChildren(crumb, h("div", { class: "title-row" }, h("h1", {}, "Comparison"), swap), table, items);
    this.start();
  }

  start() {
    this.pages = new Pages(this.ids[0], this.bar.order, (first, items) => this.took(first, items));
    this.partners ??= new Partners(this.ids[1]);
    if (!this.jobs) return;
    this.grid.clear();
    this.showCounts();
    this.look(0, 1);
  }

  showCounts() {
    const { plain, total } = this.pages;
    const [{ items }] = this.jobs;
    const shown = plain ? items.total : total;
    if (shown !== null) this.grid.resize(shown);
    this.bar.show(items, plain ? null : shown);
    setText(this.note, shown === 0 ? "No item is like that." : "");
  }

  look(first, end) {
    clearTimeout(this.looking);
    this.looking = setTimeout(() => this.pages.want(first, end).catch((error) => this.failed(error)), 40);
  }

  failed(error) {
    showBanner(error.message, () => this.pages.want(...this.grid.range).then(hideBanner, () => {}));
  }

  async took(first, items) {
    const { pages } = this;
    this.showCounts();
    for (const item of items) this.bar.offer(item);
    const most = Math.max(1, ...items.map((item) => views(item).length + 1));
    if (this.list.dataset.pictures !== String(most)) {
      this.list.dataset.pictures = String(most);
      this.grid.fit();
    }
    try {
      const partners = await this.partners.of(items);
      if (pages !== this.pages) return;
      items.forEach((item, i) => {
        const pair = [item, partners[i]];
        this.pairs.set(item.index, pair);
        this.cards.get(first + i)?.show(pair, this.names);
        if (this.detail.item?.index === item.index) this.detail.show(pair);
      });
    } catch (error) {
      this.failed(error);
    }
  }

  pairAt(position) {
    return this.pairs.get(this.pages.at(position)?.index);
  }

  card(position) {
    const card = new PairCard({ open: () => this.open(position) });
    this.cards.set(position, card);
    const pair = this.pairAt(position);
    if (pair) card.show(pair, this.names);
    return card.node;
  }

  drop(position) {
    this.cards.get(position).drop();
    this.cards.delete(position);
  }

  open(position) {
    const pair = this.pairAt(position);
    if (!pair) return;
    this.position = position;
    this.detail.show(pair, `${position + 1} of ${this.grid.count}`);
  }

  async step(by) {
    const to = this.position + by;
    if (to < 0 || to >= this.grid.count) return;
    this.grid.reveal(to);
    if (this.pairAt(to)) this.open(to);
  }
}

export function compareView(main) {
  const said = new URLSearchParams(window.location.search);
  const ids = [said.get("a"), said.get("b")];
  if (ids.every(Boolean)) new Compare(main, ids);
  else messagePage(main, "Nothing to compare", "The address names two jobs: /ui/compare?a=ID&b=ID.");
}

/** Ask which job to compare one with: first the parts of the same recipe, then the newest of the same kind. */
export async function askOther(job) {
  const list = h("ul", { class: "others" }, h("li", { class: "muted" }, "Loading jobs…"));
  const close = h("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Close");
  const dialog = h("dialog", { "aria-labelledby": "others-title" }, h("h2", { id: "others-title" }, "Compare with"), list,
    h("p", { class: "actions" }, close)); // prettier-ignore
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  try {
    const asked = [job.parent ? listJobs({ parent: job.parent, limit: 100 }) : { jobs: [] }, listJobs({ kind: job.kind, limit: 50 })];
    const jobs = (await Promise.all(asked)).flatMap((answer) => answer.jobs).filter(({ id, kind }) => id !== job.id && kind === job.kind);
    const found = [...new Map(jobs.map((each) => [each.id, each])).values()];
    list.replaceChildren(...found.map((other) => choice(job, other)));
    if (found.length === 0) list.replaceChildren(h("li", { class: "muted" }, "There is no other job of this kind."));
  } catch (error) {
    list.replaceChildren(h("li", {}, refusal(error)));
  }
}

const choice = (job, other) =>
  h("li", {}, h("a", { href: compareUrl(job.id, other.id) }, networksOf(other)),
    h("small", { class: "muted" }, `${stateLabel(other.state)}, ${exactTime(other.created_at)}, `, h("span", { class: "mono" }, other.id))); // prettier-ignore
