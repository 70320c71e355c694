// /ui/compare?a=ID&b=ID: two jobs item by item, each item beside the other job's for the same target.

import { getJob } from "./api.js";
import { changes, h } from "./dom.js";
import { jobUrl, parametersOf } from "./facts.js";
import { isFinal } from "./format.js";
import { Gallery } from "./gallery.js";
import { compareUrl, networksOf } from "./others.js";
import { PairCard, PairDetail } from "./pair.js";
import { Pairing } from "./pairing.js";
import { Partners } from "./partners.js";
import { views } from "./picture.js";
import { poll } from "./poll.js";
import { Badge, hideBanner, messagePage, refusal, showBanner } from "./ui.js";

const LONGEST = 200;

const text = (value) => (value ?? null) === null ? "–" : JSON.stringify(value).replaceAll('"', "").slice(0, LONGEST);

/** Parameters of which two jobs have different ones, as rows of a table. */
function differences(jobs) {
  const [a, b] = jobs.map(parametersOf);
  const names = Object.keys({ ...a, ...b }).filter((name) => !name.endsWith("_digest"));
  const differing = names.filter((name) => JSON.stringify(a[name]) !== JSON.stringify(b[name]));
  const cells = (name) => [a, b].map((parameters) => h("td", {}, text(parameters[name])));
  return differing.map((name) => h("tr", {}, h("th", { scope: "row" }, name), ...cells(name)));
}

class Compare {
  constructor(main, ids) {
    Object.assign(this, { main, ids, changed: changes(), position: 0 });
    this.partners = new Partners(ids[1]);
    this.pairs = new WeakMap(); // by the first job's item
    main.replaceChildren(h("p", { class: "loading" }, "Loading both jobs…"));
    document.title = "Comparison · robustreps";
    poll((signal) => this.refresh(signal), {
      up: hideBanner,
      down: (error, retry) => showBanner(error.message, retry),
      refused: (error) => this.refused(error),
    });
  }

  refused(error) {
    hideBanner();
    if (error.status === 404) messagePage(this.main, "No such job", "One of these jobs is not there, or no longer kept.");
    else this.main.replaceChildren(refusal(error));
  }

  async refresh(signal) {
    const jobs = await Promise.all(this.ids.map((id) => getJob(id, signal)));
    if (!this.gallery) this.begin(jobs);
    const over = jobs.every(({ state }) => isFinal(state));
    jobs.forEach((job, i) => this.badges[i].set(job.state));
    this.partners.know(jobs[1]);
    this.gallery.show(jobs[0]);
    await this.gallery.refresh(this.changed(jobs.map(({ state, items }) => [state, items])));
    await this.pairing.refresh(jobs, signal);
    return !over;
  }

  begin(jobs) {
    const models = jobs.map(networksOf);
    this.names = models[0] === models[1] ? ["first", "second"] : models;
    this.badges = jobs.map(() => new Badge());
    this.pairing = new Pairing(this.ids, this.names, () => this.reorder());
    this.gallery = new Gallery(this.ids[0], {
      card: (position) => this.card(position),
      took: (first, items) => this.took(first, items),
      pages: (order, took) => this.pairing.pages(order, took),
    });
    const closed = () => this.gallery.grid.focus(this.position);
    this.detail = new PairDetail(this.names, { step: (by) => this.step(by), closed });
    const jobsLink = h("a", { href: "/ui/" }, "Jobs");
    const swap = h("a", { href: compareUrl(...this.ids.toReversed()) }, "Swap them");
    this.main.replaceChildren(
      h("nav", { "aria-label": "Breadcrumb", class: "crumb" }, jobsLink, " / comparison"),
      h("div", { class: "title-row" }, h("h1", {}, "Comparison"), swap),
      this.sides(jobs, models),
      this.pairing.node,
      h("div", { class: "items" }, h("div", {}, ...this.gallery.nodes)),
    );
  }

  /** What the jobs are, and of which parameters they have different ones. */
  sides(jobs, models) {
    const heads = jobs.map(({ id }, i) => {
      const link = h("a", { href: jobUrl(id) }, models[i]);
      return h("th", { scope: "col" }, link, " ", this.badges[i].node, h("small", { class: "mono" }, id));
    });
    const head = h("thead", {}, h("tr", {}, h("td", {}), ...heads));
    return h("table", { class: "sides", "aria-label": "The two jobs" }, head, h("tbody", {}, ...differences(jobs)));
  }

  /** Other pairs may be in another order. */
  reorder() {
    const { bar } = this.gallery;
    bar.more = this.pairing.orders;
    bar.show();
    if (this.gallery.pages.partners) this.gallery.start();
  }

  async took(first, items) {
    const { gallery } = this;
    const { pages } = gallery;
    gallery.layout(Math.max(1, ...items.map((item) => views(item).length + 1)));
    const partners = pages.partners?.(first, items) ?? (await this.partners.of(items));
    items.forEach((item, i) => {
      const pair = [item, partners[i]];
      this.pairs.set(item, pair);
      if (pages === gallery.pages) gallery.cards.get(first + i)?.show(pair, this.names, this.partners.none);
      if (this.detail.item?.index === item.index) this.detail.show(pair);
    });
  }

  pairAt(position) {
    return this.pairs.get(this.gallery.pages.at(position));
  }

  card(position) {
    const card = new PairCard({ open: () => this.open(position) });
    const pair = this.pairAt(position);
    if (pair) card.show(pair, this.names, this.partners.none);
    return card;
  }

  open(position) {
    const pair = this.pairAt(position);
    if (!pair) return;
    this.position = position;
    this.detail.show(pair, this.gallery.place(position));
  }

  async step(by) {
    const to = this.position + by;
    const item = await this.gallery.reach(to).catch((error) => this.gallery.failed(error));
    if (item && this.detail.item) this.open(to);
  }
}

export function compareView(main) {
  const said = new URLSearchParams(window.location.search);
  const ids = [said.get("a"), said.get("b")];
  if (ids.every(Boolean)) new Compare(main, ids);
  else messagePage(main, "Nothing to compare", "The address names two jobs: /ui/compare?a=ID&b=ID.");
}
