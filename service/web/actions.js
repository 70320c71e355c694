// What can be done with a job: the buttons beside its name.

import { cancelJob, deleteJob, getRequest, pauseJob, Refused, resumeJob, retryJob } from "./api.js";
import { copy } from "./clipboard.js";
import { openClone } from "./clone.js";
import { h } from "./dom.js";
import { canCancel, canPause, canResume, canRetry, isFinal } from "./format.js";
import { menu } from "./menu.js";
import { asCurl, asPython } from "./request.js";
import { isRecipe } from "./rows.js";
import { ask, askRetry, refusal } from "./ui.js";

const FINISHED = "Items that are finished keep their results. The others stop and cannot be resumed.";
const OF_PARTS = "Its parts are cancelled with it, and no figure is drawn.";
const GONE = "With it goes everything that it stored. A network or data set that it registered stays.";

/** What there is to download of a job, by the names of its links. */
const DOWNLOADS = [
  ["archive", "", "All files, zip"],
  ["archive", "?format=tar", "All files, tar"],
  ["table", "?format=csv", "Table of items, CSV"],
  ["table", "?format=jsonl", "Table of items, JSON lines"],
  ["errors", "", "Refused entries, JSON"],
];

export class Actions {
  /** `changed(job)` hears of a job that was changed, `problem(node)` shows what went wrong. */
  constructor(place, id, { changed, problem }) {
    Object.assign(this, { place, id, changed, problem });
    const button = (text, act, tone) => h("button", { type: "button", class: tone, hidden: true, onclick: act }, text);
    this.pause = button("Pause", () => this.change(pauseJob));
    this.resume = button("Resume", () => this.change(resumeJob));
    this.retry = button("Retry failed", () => this.again());
    this.clone = button("Clone", () => openClone(this.id, this.sent));
    this.cancel = button("Cancel job", () => this.stop(), "danger");
    this.remove = button("Delete", () => this.erase(), "danger");
    this.buttons = [this.pause, this.resume, this.retry, this.clone, this.cancel, this.remove];
    place.replaceChildren(...this.buttons);
  }

  /** `failures` counts what can be tried again. */
  show(job, failures) {
    this.job = job;
    this.pause.hidden = !canPause(job.state);
    this.resume.hidden = !canResume(job.state);
    this.retry.hidden = !canRetry(job.state) || !failures;
    this.cancel.hidden = !canCancel(job.state);
    this.remove.hidden = !isFinal(job.state) || job.parent !== null;
    if (this.cancel.hidden) this.asking?.abort();
  }

  /** What there is to download, once the job's links are known. */
  offerFiles(job) {
    const links = DOWNLOADS.filter(([name]) => (name === "table" ? !isRecipe(job) : name !== "errors" || job.planning));
    const files = links.map(([name, query, text]) => h("a", { href: job.links[name] + query, download: true }, text));
    this.clone.before(menu("Download", files));
  }

  /**
   * Ask for the job's request, and offer what can be done with it. Answers the request; empty for a recipe's part, and
   * for a job whose request was not kept.
   */
  async offerRequest(job, signal) {
    if (job.parent) return {};
    try {
      this.sent = await getRequest(this.id, signal);
    } catch (error) {
      if (error instanceof Refused) return {};
      throw error;
    }
    this.clone.hidden = false;
    const copies = { "Copy as curl": asCurl, "Copy as Python": asPython };
    const entries = Object.entries(copies).map(([text, command]) =>
      h("button", { type: "button", onclick: () => copy(command(this.sent), text.replace("Copy as", "the request as")) }, text),
    );
    this.clone.after(menu("Copy", entries));
    return this.sent;
  }

  async stop() {
    const text = isRecipe(this.job) ? `${OF_PARTS} ${FINISHED}` : FINISHED;
    this.asking = new AbortController();
    const yes = await ask("Cancel this job?", text, "Keep it running", "Cancel the job", "danger", this.asking.signal);
    if (yes) await this.change(cancelJob);
  }

  /** What was shown of the failed items, and of what was made of all, holds no more: begin the page afresh. */
  async again() {
    if ((await askRetry()) && (await this.change(retryJob))) window.location.reload();
  }

  async erase() {
    if (!(await ask("Delete this job?", GONE, "Keep it", "Delete the job", "danger"))) return;
    await this.attempt(async () => {
      await deleteJob(this.id);
      window.location.assign("/ui/");
    });
  }

  change(call) {
    return this.attempt(async () => this.changed(await call(this.id)));
  }

  /** Ask the API for something; answers whether it agreed. */
  async attempt(call) {
    for (const button of this.buttons) button.disabled = true;
    try {
      await call();
      return true;
    } catch (error) {
      this.problem(refusal(error));
      return false;
    } finally {
      for (const button of this.buttons) button.disabled = false;
    }
  }
}
