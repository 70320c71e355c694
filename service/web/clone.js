// A job's request as JSON, to be changed and submitted again: checked by the API before it is sent.

import { cloneJob, newKey, preview } from "./api.js";
import { h, setText } from "./dom.js";
import { jobUrl } from "./facts.js";
import { count, duration, plural } from "./format.js";
import { mergePatch, written } from "./request.js";
import { note, refusal } from "./ui.js";

/** What a dry run answered, in a line. */
function outlook({ items, image_steps: steps, warnings, estimate }) {
  const parts = [items === null ? "as many items as its source has" : plural(items, "item")];
  if (steps !== null) parts.push(`at most ${count(steps)} image-steps`);
  if (estimate.seconds !== null) parts.push(`about ${duration(estimate.seconds)} once it is begun`);
  const found = [h("p", {}, `It would be taken: ${parts.join(", ")}.`)];
  if (warnings.length > 0) found.push(note("mixed", plural(warnings.length, "warning"), ...warnings));
  return found;
}

class CloneDialog {
  /** `sent` is the job's request as the API tells it. */
  constructor(id, sent) {
    this.id = id;
    this.sent = sent;
    this.key = newKey(); // one for all attempts
    this.text = h("textarea", { rows: 18, spellcheck: "false", class: "mono", "aria-label": "Request, as JSON" });
    this.text.value = written(sent.body);
    this.answer = h("div", { role: "status", class: "answer" });
    const check = h("button", { type: "button", onclick: () => this.check() }, "Check");
    this.buttons = [
      h("button", { type: "button", onclick: () => this.node.close() }, "Leave it"),
      ...(/^\/v1\/(jobs|recipes)/.test(sent.address) ? [check] : []), // registrations have no dry run
      h("button", { type: "button", class: "solid", onclick: () => this.submit() }, "Submit the clone"),
    ];
    this.node = h(
      "dialog",
      { class: "wide-dialog", "aria-labelledby": "clone-title" },
      h("h2", { id: "clone-title" }, "Clone with edits"),
      h("p", { class: "muted" }, `The request of ${id}. `, h("a", { href: `/ui/new?clone=${id}` }, "Edit it in the form")),
      this.text,
      this.answer,
      h("p", { class: "actions" }, ...this.buttons),
    );
    this.node.addEventListener("close", () => this.node.remove());
    document.body.append(this.node);
    this.node.showModal();
  }

  /** Run `call` on the edited request, and say what is wrong with it where something is. */
  async attempt(call) {
    for (const button of this.buttons) button.disabled = true;
    try {
      const body = JSON.parse(this.text.value);
      if (body === null || typeof body !== "object" || Array.isArray(body)) throw new SyntaxError("must be an object");
      await call(body);
    } catch (error) {
      const shown = error instanceof SyntaxError ? note("bad", "This is no request", error.message) : refusal(error);
      this.answer.replaceChildren(shown);
    } finally {
      for (const button of this.buttons) button.disabled = false;
    }
  }

  check() {
    setText(this.answer, "Checking…");
    return this.attempt(async (body) => this.answer.replaceChildren(...outlook(await preview(this.sent.address, body))));
  }

  submit() {
    return this.attempt(async (body) => {
      const { id } = await cloneJob(this.id, mergePatch(this.sent.body, body), this.key);
      window.location.assign(jobUrl(id));
    });
  }
}

export const openClone = (id, sent) => new CloneDialog(id, sent);
