// A registration's request as JSON, to be changed and sent again. All other requests are edited in the form of a new job.

import { cloneJob, newKey } from "./api.js";
import { h } from "./dom.js";
import { jobUrl } from "./facts.js";
import { mergePatch, written } from "./request.js";
import { note, refusal } from "./ui.js";

class CloneDialog {
  /** `sent` is the job's request as the API tells it. */
  constructor(id, sent) {
    this.id = id;
    this.sent = sent;
    this.key = newKey(); // one for all attempts
    this.text = h("textarea", { rows: 18, spellcheck: "false", class: "mono", "aria-label": "Request, as JSON" });
    this.text.value = written(sent.body);
    this.answer = h("div", { role: "status", class: "answer" });
    this.buttons = [
      h("button", { type: "button", onclick: () => this.node.close() }, "Leave it"),
      h("button", { type: "button", class: "solid", onclick: () => this.submit() }, "Submit the clone"),
    ];
    this.node = h(
      "dialog",
      { class: "wide-dialog", "aria-labelledby": "clone-title" },
      h("h2", { id: "clone-title" }, "Clone with edits"),
      h("p", { class: "muted" }, `The request of ${id}.`),
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

  submit() {
    return this.attempt(async (body) => {
      const { id } = await cloneJob(this.id, mergePatch(this.sent.body, body), this.key);
      window.location.assign(jobUrl(id));
    });
  }
}

/** Clone a job by its request as the API tells it: in the form, if there is one. */
export function openClone(id, sent) {
  if (/^\/v1\/(jobs|recipes)/.test(sent.address)) window.location.assign(`/ui/new?${new URLSearchParams({ clone: id })}`);
  else new CloneDialog(id, sent);
}
