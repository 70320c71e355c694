// One job, live until it is in a final state.

import { cancelJob, getJob, pauseJob, resumeJob, retryJob } from "./api.js";
import { lineChart } from "./chart.js";
import { changes, h, mount, setText } from "./dom.js";
import { drawEvaluation } from "./evaluation.js";
import { drawExtremes } from "./extremes.js";
import { deadlineText, notices, parameterRows, parametersOf, showProgress, timeline } from "./facts.js";
import { canCancel, canPause, canResume, canRetry, exactTime, isFinal, percent, stateLabel } from "./format.js";
import { poll } from "./poll.js";
import { Recipe } from "./recipe.js";
import { Registration } from "./registration.js";
import { isRecipe, kindOf } from "./rows.js";
import { Runs } from "./runs.js";
import { Study } from "./study.js";
import { Training } from "./training.js";
import { announce, askRetry, Badge, hideBanner, messagePage, refusal, showBanner } from "./ui.js";

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
const STUDY = { content: (ref, id) => new Study(ref, id), unit: "image-step", curve: true };
/** What a curve is of: its title, and whether it begins with a logarithmic axis. */
const CURVES = {
  activation: ["Median activation", false],
  loss: ["Loss, mean of the epoch so far", true],
  relative_distance: ["Median relative distance", true],
};

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
    this.ref.cancel.addEventListener("click", () => this.ask());
    this.ref.dialog.addEventListener("close", () => this.ref.dialog.returnValue === "cancel" && this.change(cancelJob));
    this.ref.pause.addEventListener("click", () => this.change(pauseJob));
    this.ref.resume.addEventListener("click", () => this.change(resumeJob));
    this.ref.retry.addEventListener("click", () => this.retry());
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
    const counts = await this.content.refresh(job, signal);
    if (isRecipe(job)) showProgress(this.ref, job, this.kind.unit, counts, "part");
    this.ref.retry.hidden = !canRetry(job.state) || !failures(job, isRecipe(job) ? counts : {});
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
    setText(ref.id, isRecipe(job) ? kindOf(job) : job.id);
    ref.id.classList.toggle("mono", !isRecipe(job));
    setText(ref.kind, isRecipe(job) ? `recipe ${job.id}` : kindOf(job));
    ref.whole.hidden = !isRecipe(job);
  }

  /** A part's way back: the recipe, and what the part is called there. */
  showParent(parent) {
    this.parent = parent;
    const [label] = Object.entries(parent.parts).find(([, id]) => id === this.id) ?? [""];
    const link = h("a", { href: `/ui/jobs/${encodeURIComponent(parent.id)}` }, kindOf(parent));
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
    ref.cancel.hidden = !canCancel(job.state);
    ref.pause.hidden = !canPause(job.state);
    ref.resume.hidden = !canResume(job.state);
    ref.deadline.hidden = !job.deadline;
    if (job.deadline) setText(ref.deadline, deadlineText(job));
    if (ref.cancel.hidden && ref.dialog.open) ref.dialog.close("keep");
    if (!isRecipe(job)) showProgress(ref, job, this.kind.unit);
    const { curve = [], fraction } = job.progress;
    const headline = isFinal(job.state) ? stateLabel(job.state) : percent(fraction ?? 0);
    document.title = `${headline} · ${ref.id.textContent} · robustreps`;
    // The API has a curve only of what runs now; the last one seen stays, between shards and after the end.
    if (curve.length > 0 && news.curve(curve)) this.chart.update([curve]);
    if (news.notices([job.warnings, job.error])) ref.notices.replaceChildren(...notices(job));
    if (news.timeline(job.transitions)) ref.timeline.replaceChildren(...timeline(job));
    setText(ref.day, `${exactTime(job.created_at).slice(0, 10)}, UTC`);
    ref.curve.hidden = !this.kind.curve || (isFinal(job.state) && this.chart.empty);
    if (news.parameters(job.parameters)) ref.parameters.replaceChildren(...parameterRows(parametersOf(job)));
  }

  ask() {
    this.ref.dialog.returnValue = ""; // Escape leaves the value of the last answer
    this.ref.dialog.showModal();
  }

  /** What was shown of the failed items, and of what was made of all, holds no more: begin the page afresh. */
  async retry() {
    if ((await askRetry()) && (await this.change(retryJob))) window.location.reload();
  }

  /** Ask the API for a change of state; answers whether it agreed. */
  async change(call) {
    const buttons = [this.ref.cancel, this.ref.pause, this.ref.resume, this.ref.retry];
    for (const button of buttons) button.disabled = true;
    try {
      this.show(await call(this.id));
      this.follow();
      return true;
    } catch (error) {
      this.ref.notices.prepend(refusal(error));
      return false;
    } finally {
      for (const button of buttons) button.disabled = false;
    }
  }

  refused(error) {
    hideBanner();
    if (error.status === 404)
      messagePage(this.main, "No such job", `There is no job ${this.id}, or it is no longer kept.`);
    else this.main.replaceChildren(refusal(error));
  }
}

export const jobView = (main, id) => new JobPage(main, id);
