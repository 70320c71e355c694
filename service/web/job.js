// One job, live until it is in a final state.

import { About } from "./about.js";
import { Actions } from "./actions.js";
import { getJob, listLogs } from "./api.js";
import { Attempts } from "./attempts.js";
import { lineChart } from "./chart.js";
import { copy } from "./clipboard.js";
import { Curves } from "./curves.js";
import { changes, h, mount, setAttribute, setText } from "./dom.js";
import { drawEvaluation } from "./evaluation.js";
import { drawExtremes } from "./extremes.js";
import { jobUrl, notices, parameterTable, showProgress } from "./facts.js";
import { Failures } from "./failures.js";
import { exactTime, isFinal, percent, plural, stateLabel } from "./format.js";
import { Logs } from "./logs.js";
import { standing, timeline } from "./moments.js";
import { poll } from "./poll.js";
import { Recipe } from "./recipe.js";
import { Registration } from "./registration.js";
import { isRecipe, kindOf, titleOf } from "./rows.js";
import { Runs } from "./runs.js";
import { Study } from "./study.js";
import { Tabs } from "./tabs.js";
import { Training } from "./training.js";
import { announce, Badge, hideBanner, messagePage, refusal, showBanner } from "./ui.js";

/** What the page of a kind of job holds, what its steps are called, and whether what runs now has a curve to show. */
const registration = { content: (ref) => new Registration(ref.content), unit: "step" };
const KINDS = {
  recipe: { content: (ref) => new Recipe(ref.content), unit: "step" },
  training: { content: (ref) => new Training(ref.content), unit: "optimiser step", curve: true },
  evaluation: { content: (ref) => new Runs(ref.content, drawEvaluation), unit: "step" },
  activating_images: { content: (ref) => new Runs(ref.content, drawExtremes), unit: "run" },
  model_registration: registration,
  dataset_registration: registration,
};
const STUDY = { content: (ref, id) => new Study(ref, id), unit: "image-step", curve: true, curves: true };
/** What a curve is of: its title, and whether it begins with a logarithmic axis. */
const CURVES = {
  activation: ["Median activation", false],
  loss: ["Loss, mean of the epoch so far", true],
  relative_distance: ["Median relative distance", true],
};
/** Log lines that the timeline looks through, and every how many polls it does so though no count has changed. */
const LINES = 100;
const ANYWAY = 5;

/** Failed items of a job, and of a recipe the parts that have some; `parts` counts them by state. */
const failures = ({ items }, parts) => items.failed + (parts.failed ?? 0) + (parts.partially_succeeded ?? 0);

class JobPage {
  constructor(main, id) {
    this.main = main;
    this.id = id;
    this.ref = mount(main, "job-view");
    this.badge = new Badge();
    this.ref.badge.replaceWith(this.badge.node);
    this.news = { curve: changes(), notices: changes(), timeline: changes(), parameters: changes() };
    this.counts = {};
    this.polls = 0;
    const changed = (job) => {
      this.show(job);
      this.follow();
    };
    this.about = new About(this.ref.about, changed);
    this.actions = new Actions(this.ref.actions, id, { changed, problem: (node) => this.ref.notices.prepend(node) });
    document.title = `${id} · robustreps`;
    this.follow();
  }

  follow() {
    this.poller?.stop();
    this.poller = poll((signal) => this.refresh(signal), {
      up: hideBanner,
      down: (error, retry) => showBanner(error.message, retry),
      refused: (error) => this.refused(error),
    });
  }

  async refresh(signal) {
    const job = await getJob(this.id, signal);
    if (!this.job) this.begin(job);
    this.show(job);
    if (job.parent && !this.parent) this.showParent(await getJob(job.parent, signal));
    const { name } = this.tabs;
    if (name === "items" || isRecipe(job)) this.counts = (await this.content.refresh(job, signal)) ?? {};
    if (isRecipe(job)) showProgress(this.ref, job, this.kind.unit, this.counts, "part");
    this.actions.show(job, failures(job, isRecipe(job) ? this.counts : {}));
    await this.panels[name]?.refresh(job, signal);
    this.asked ??= await this.actions.offerRequest(job, signal);
    await this.showMoments(job, signal);
    this.showParameters(job);
    return !isFinal(job.state) || this.content.moves === true;
  }

  /** What the page holds depends on the job's kind, which is known with its first answer. */
  begin(job) {
    const { ref } = this;
    this.kind = KINDS[job.kind] ?? STUDY;
    const [title, log] = CURVES[job.progress.curve_of] ?? CURVES.relative_distance;
    this.chart = lineChart(title, { log });
    ref.curve.append(this.chart.node);
    this.content = this.kind.content(ref, this.id);
    setText(ref.id, job.id);
    ref.id.addEventListener("click", () => copy(job.id, "the id"));
    setText(ref.kind, kindOf(job));
    this.actions.offerFiles(job);
    this.beginTabs(job);
  }

  beginTabs(job) {
    const { ref, id } = this;
    const place = (hidden) => h("div", { class: "items", hidden });
    const nodes = { curves: place(true), failures: place(true), workers: place(true), log: place(true) };
    this.panels = {
      curves: this.kind.curves && new Curves(nodes.curves, id, job),
      failures: new Failures(nodes.failures, id),
      workers: new Attempts(nodes.workers, id),
      log: new Logs(nodes.log, id),
    };
    const named = { items: this.kind === STUDY ? "Items" : "Results", curves: "Curves", failures: "Failures" };
    const labels = { ...named, workers: "Workers", log: "Log" };
    const own = Object.entries(labels).map(([name, label]) => ({ name, label, node: nodes[name] ?? ref.content }));
    const shown = own.filter(({ name }) => name === "items" || this.panels[name]);
    ref.center.append(...shown.slice(1).map(({ node }) => node));
    shown.push({ name: "about", label: "About", node: ref.facts, narrow: true });
    this.tabs = new Tabs(ref.tabs, shown, (name) => {
      ref.columns.dataset.tab = name;
      if (this.tabs) this.follow();
    });
  }

  /** A part's way back: the recipe, and what the part is called there. */
  showParent(parent) {
    this.parent = parent;
    const [label] = Object.entries(parent.parts).find(([, id]) => id === this.id) ?? [""];
    const link = h("a", { href: jobUrl(parent.id) }, kindOf(parent));
    this.ref.parent.replaceChildren(link, h("span", { "aria-hidden": "true" }, " / "));
    setText(this.ref.kind, `${label.replace("/", " / ")} (${kindOf(this.job)})`);
  }

  show(job) {
    const { ref, news } = this;
    if (this.job && this.job.state !== job.state) announce(`The job is ${stateLabel(job.state)}`);
    this.job = job;
    ref.loading.hidden = true;
    ref.body.hidden = false;
    this.badge.set(job.state);
    setText(ref.title, titleOf(job));
    setAttribute(ref.title, "title", titleOf(job));
    this.actions.show(job, failures(job, this.counts));
    this.about.show(job);
    this.tabs.offer("failures", job.items.failed > 0, plural(job.items.failed, "failure"));
    if (!isRecipe(job)) showProgress(ref, job, this.kind.unit);
    const waits = standing(job);
    ref.standing.hidden = !waits;
    setText(ref.standing, waits);
    const { curve = [], fraction } = job.progress;
    const headline = isFinal(job.state) ? stateLabel(job.state) : percent(fraction ?? 0);
    document.title = `${headline} · ${titleOf(job)} · robustreps`;
    // The API has a curve only of what runs now; the last one seen stays, between shards and after the end.
    if (curve.length > 0 && news.curve(curve)) this.chart.update([curve]);
    if (news.notices([job.warnings, job.error])) ref.notices.replaceChildren(...notices(job));
    setText(ref.day, `${exactTime(job.created_at).slice(0, 10)}, UTC`);
    ref.curve.hidden = !this.kind.curve || (isFinal(job.state) && this.chart.empty);
  }

  showParameters(job) {
    const differs = this.asked.differs_from ?? {};
    if (!this.news.parameters([job.parameters, differs])) return;
    const number = Object.keys(differs).length;
    const usual = this.asked.body?.preset ? `in ${job.parameters.preset ?? this.asked.body.preset}` : "usual";
    setText(this.ref.differing, number ? `${number} not as ${usual}` : "");
    this.ref.parameters.replaceChildren(...parameterTable(job, differs));
  }

  async showMoments(job, signal) {
    this.polls += 1;
    const now = JSON.stringify([job.transitions, job.items]);
    if (now !== this.told || this.polls % ANYWAY === 0) this.lines = (await listLogs(this.id, { limit: LINES }, signal)).logs;
    this.told = now;
    if (this.news.timeline([job.transitions, this.lines])) this.ref.timeline.replaceChildren(...timeline(job, this.lines));
  }

  refused(error) {
    hideBanner();
    if (error.status === 404)
      messagePage(this.main, "No such job", `There is no job ${this.id}, or it is no longer kept.`);
    else this.main.replaceChildren(refusal(error));
  }
}

export const jobView = (main, id) => new JobPage(main, id);
