// What is done to several selected jobs at once.

import { cancelJob, pauseJob, resumeJob, retryJob } from "./api.js";
import { h, setText } from "./dom.js";
import { canCancel, canPause, canResume, canRetry, count, isFinal, plural } from "./format.js";
import { isRecipe } from "./rows.js";
import { announce, ask, note } from "./ui.js";

/** Refusals that are told one by one. */
const NAMED = 5;

/** A recipe's row does not say what failed of its parts; the API refuses where nothing did. */
const hasFailed = ({ state, items, kind }) =>
  canRetry(state) && (items.failed > 0 || (isRecipe({ kind }) && isFinal(state) && state !== "succeeded"));

const ACTIONS = [
  {
    verb: "Cancel", done: "cancelled", may: ({ state }) => canCancel(state), call: cancelJob, tone: "danger",
    text: "Items that are finished keep their results. The others stop and cannot be resumed.",
    no: "Keep them running", yes: "Cancel them",
  },
  { verb: "Pause", done: "paused", may: ({ state }) => canPause(state), call: pauseJob },
  { verb: "Resume", done: "resumed", may: ({ state }) => canResume(state), call: resumeJob },
  {
    verb: "Retry", done: "queued again", may: hasFailed, call: retryJob,
    text: "Their failed items are computed again, and what is made of all items, such as a summary, is made anew.",
    no: "Leave them", yes: "Retry them",
  },
];

export class Bulk {
  /** `rows()` answers the rows that are shown, each with a `box`; `after()` is called when something was done. */
  constructor(place, notices, rows, after) {
    Object.assign(this, { place, notices, rows, after });
    this.all = h("input", { type: "checkbox", "aria-label": "Select all jobs shown", onchange: () => this.setAll() });
    this.chosen = h("strong");
    this.buttons = ACTIONS.map((action) =>
      h("button", { type: "button", class: action.tone, onclick: () => this.act(action) }, action.verb),
    );
    const clear = h("button", { type: "button", class: "quiet", onclick: () => this.clear() }, "Clear selection");
    place.append(this.chosen, ...this.buttons, clear);
    this.update();
  }

  /** A checkbox for a row. */
  box(id) {
    return h("input", { type: "checkbox", "aria-label": `Select ${id}`, onchange: () => this.update() });
  }

  selected() {
    return this.rows().filter(({ box }) => box.checked);
  }

  setAll(checked = this.all.checked) {
    for (const { box } of this.rows()) box.checked = checked;
    this.update();
  }

  clear() {
    this.setAll(false);
    this.all.focus();
  }

  /** Say what may be done to what is selected now. */
  update() {
    const rows = this.rows();
    const jobs = this.selected().map(({ job }) => job);
    this.place.hidden = jobs.length === 0 && !this.busy;
    this.all.checked = jobs.length > 0 && jobs.length === rows.length;
    this.all.indeterminate = jobs.length > 0 && jobs.length < rows.length;
    if (!this.busy) setText(this.chosen, `${plural(jobs.length, "job")} selected`);
    ACTIONS.forEach(({ verb, may }, i) => {
      const able = jobs.filter(may).length;
      setText(this.buttons[i], able > 0 ? `${verb} ${count(able)}` : verb);
      this.buttons[i].disabled = able === 0 || this.busy === true;
    });
  }

  async act({ verb, done, may, call, tone, text, no, yes }) {
    const rows = this.selected().filter(({ job }) => may(job));
    if (text && !(await ask(`${verb} ${plural(rows.length, "job")}?`, text, no, yes, tone))) return;
    this.busy = true;
    this.update();
    const refused = [];
    for (const row of rows) {
      try {
        row.update(await call(row.job.id));
        row.box.checked = false;
      } catch (error) {
        refused.push(`${row.job.id}: ${error.message}`);
      }
      setText(this.chosen, `${count(rows.indexOf(row) + 1)} of ${plural(rows.length, "job")}`);
    }
    this.busy = false;
    this.tell(`${count(rows.length - refused.length)} of ${plural(rows.length, "job")} ${done}`, refused);
    this.update();
    this.after();
  }

  tell(text, refused) {
    announce(text);
    const lines = refused.slice(0, NAMED);
    if (refused.length > NAMED) lines.push(`and ${count(refused.length - NAMED)} more`);
    this.notices.replaceChildren(...(refused.length ? [note("bad", text, ...lines)] : []));
  }
}
