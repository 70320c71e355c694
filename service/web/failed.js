// Dead letters: the failed items of all jobs, by job; those that failed last come first.

import { listDeadLetters, retryJob } from "./api.js";
import { h, mount } from "./dom.js";
import { jobLink, jobUrl } from "./facts.js";
import { canRetry, exactTime, plural, sinceThen } from "./format.js";
import { poll } from "./poll.js";
import { kindName } from "./rows.js";
import { dataTable, small } from "./tables.js";
import { announce, askRetry, Badge, hideBanner, refusal, showBanner } from "./ui.js";

const PAGE = 100;
const HEADS = ["Item", "Cause", "Failed"];

const row = ({ job, index, error, finished_at: at }) => [
  h("a", { href: `${jobUrl(job)}#item-${index}` }, `#${index}`),
  [h("span", { class: "bad-text" }, String(error?.title ?? "–")), small(error?.detail ?? "")],
  h("time", { datetime: at, title: exactTime(at) }, sinceThen(at)),
];

class FailedList {
  constructor(main) {
    this.ref = mount(main, "failed-view");
    this.ref.more.addEventListener("click", () => this.loadMore());
    document.title = "Failed items · robustreps";
    this.start();
  }

  /** Begin afresh, from the item that failed last. */
  start() {
    this.letters = [];
    this.cursor = null;
    const load = async (signal) => {
      await this.load(signal);
      return false;
    };
    poll(load, {
      up: hideBanner,
      down: (error, retry) => showBanner(error.message, retry),
      refused: (error) => this.ref.notices.replaceChildren(refusal(error)),
    });
  }

  async load(signal) {
    const page = await listDeadLetters({ limit: PAGE, cursor: this.cursor }, signal);
    this.letters.push(...page.dead_letters);
    this.cursor = page.next_cursor;
    this.show();
  }

  async loadMore() {
    this.ref.more.disabled = true;
    try {
      await this.load();
      announce(`${plural(this.letters.length, "failed item")} shown`);
    } catch (error) {
      this.ref.notices.replaceChildren(refusal(error));
    } finally {
      this.ref.more.disabled = false;
    }
  }

  show() {
    const jobs = Map.groupBy(this.letters, ({ job }) => job);
    const vacant = h("p", { class: "vacant muted" }, "Nothing has failed.");
    const sections = [...jobs].map(([id, letters]) => this.section(id, letters));
    this.ref.place.replaceChildren(...(sections.length ? sections : [vacant]));
    this.ref.more.hidden = !this.cursor;
  }

  section(id, letters) {
    const [{ kind, state }] = letters;
    const retry = h("button", { type: "button", class: "push" }, "Retry failed");
    retry.addEventListener("click", () => this.retry(id, retry));
    retry.hidden = !canRetry(state);
    const name = jobLink(id);
    return h(
      "section",
      { "aria-label": `Job ${id}` },
      h(
        "div",
        { class: "failed-job" },
        h("h2", {}, name, small(` ${kindName(kind)}`)),
        new Badge(state).node,
        retry,
      ),
      dataTable(`Failed items of ${id}`, HEADS, letters.map(row)),
    );
  }

  async retry(id, button) {
    if (!(await askRetry())) return;
    button.disabled = true;
    try {
      await retryJob(id);
      announce(`The failed items of ${id} are queued again`);
      this.ref.notices.replaceChildren();
      this.start();
    } catch (error) {
      this.ref.notices.replaceChildren(refusal(error));
      button.disabled = false;
    }
  }
}

export const failedList = (main) => new FailedList(main);
