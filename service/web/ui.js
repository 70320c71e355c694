// What every view shares: the banner, the announcer for screen readers, badges and notes.

import { h, setText } from "./dom.js";
import { stateLabel, stateTone } from "./format.js";

const banner = document.getElementById("banner");
const announcer = document.getElementById("announcer");

export const announce = (text) => setText(announcer, text);

const OFFLINE = "This device is offline. What is shown may be old";

/** Say that the API is away. The text changes only with the cause, so that it is not read out at every attempt. */
export function showBanner(message, retry) {
  const text = navigator.onLine ? `${message}, retrying…` : OFFLINE;
  if (banner.firstElementChild?.textContent === text) return;
  const again = h("button", { type: "button", onclick: retry }, "Retry now");
  banner.replaceChildren(h("span", {}, text), ...(navigator.onLine ? [again] : []));
}

export const hideBanner = () => banner.firstElementChild && banner.replaceChildren();

// A service on this very device answers all the same: the next answer takes the banner away.
window.addEventListener("offline", () => showBanner());
window.addEventListener("online", hideBanner);

export class Badge {
  constructor(state) {
    this.node = h("span", { class: "badge" });
    if (state) this.set(state);
  }

  set(state) {
    this.node.dataset.tone = stateTone(state);
    setText(this.node, stateLabel(state));
  }
}

/** A refusal or an error as a note: `tone` is "bad" or "mixed". */
export function note(tone, title, ...lines) {
  return h(
    "div",
    { class: "note", "data-tone": tone },
    h("strong", {}, title),
    ...lines.map((line) => h("p", {}, line)),
  );
}

export function refusal(error) {
  const fields = (error.errors ?? []).map(({ field, message }) => `${field}: ${message}`);
  // The detail of a refusal may already be the text of its only field.
  return note("bad", error.title ?? "Something went wrong", ...new Set([error.message, ...fields]));
}

/**
 * Ask before something is done; answers whether to do it. Escape is a no, and so is the end of `signal`. `tone` "danger"
 * is for what has no way back.
 */
export function ask(title, text, no, yes, tone = "", signal = null) {
  const answer = h("button", { value: "yes", class: `${tone} solid` }, yes);
  const answers = [h("button", { value: "no", autofocus: true }, no), answer];
  const form = h("form", { method: "dialog" }, h("h2", { id: "ask-title" }, title), h("p", {}, text));
  form.append(h("p", { class: "actions" }, ...answers));
  const dialog = h("dialog", { "aria-labelledby": "ask-title" }, form);
  document.body.append(dialog);
  dialog.showModal();
  signal?.addEventListener("abort", () => dialog.close("no"));
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

const RETRIED = "They are computed again. What is made of all items, such as a summary or a figure, is made anew.";
export const askRetry = () => ask("Retry the failed items?", RETRIED, "Leave them", "Retry them");

/** The whole page is one message. */
export function messagePage(main, title, text) {
  document.title = `${title} · robustreps`;
  const back = h("p", {}, h("a", { href: "/ui/" }, "Back to all jobs"));
  main.replaceChildren(h("div", { class: "message" }, h("h1", {}, title), h("p", {}, text), back));
}
