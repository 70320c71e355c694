// Keys: j and k walk over what a page lists, / searches, ? tells of them. The focus is the cursor, so that enter, space
// and tab do what they always do. A page adds keys of its own by `addKeys`.

import { h } from "./dom.js";

/** What j and k stop at. */
const STOPS = ".jobs .c-job > a, .data tbody th a, .card .open";
const FIELD = "input:not([type=checkbox], [type=radio], [type=range]), textarea, select, [contenteditable]";

let last = null;

function walk(by) {
  const stops = [...document.querySelectorAll(STOPS)].filter((stop) => stop.checkVisibility());
  if (stops.length === 0) return;
  const { activeElement } = document;
  if (activeElement.closest("[data-position]")) {
    // A grid that holds only what is in sight walks by arrows.
    activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: by > 0 ? "ArrowRight" : "ArrowLeft", bubbles: true }));
    return;
  }
  const here = activeElement.closest("tr, .card")?.querySelector(STOPS) ?? last;
  const at = stops.indexOf(here);
  last = stops[at < 0 ? 0 : Math.max(0, Math.min(stops.length - 1, at + by))];
  last.focus();
}

function search() {
  const field = document.querySelector("main input[type=search]");
  field?.focus();
  field?.select();
}

/** Say which of these keys do what. */
export function help(keys) {
  const line = ({ key, label }) => h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, key)), h("td", {}, label));
  const table = h("table", { class: "pairs keys", "aria-labelledby": "keys-title" }, ...keys.map(line));
  const close = h("p", { class: "actions" }, h("button", { autofocus: true }, "Close"));
  const form = h("form", { method: "dialog" }, h("h2", { id: "keys-title" }, "Keyboard"), table, close);
  const dialog = h("dialog", { "aria-labelledby": "keys-title" }, form);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

const KEYS = [
  { key: "j", label: "Next in the list", run: () => walk(1) },
  { key: "k", label: "The one before", run: () => walk(-1) },
  { key: "Enter", label: "Open it" },
  { key: "/", label: "Search", run: search },
  { key: "?", label: "These keys", run: () => help(KEYS) },
];

/**
 * `more` are of the form `{key, label, run}`: what KeyboardEvent calls the key, what it does in words, what to call. They take
 * the place of those with the same key.
 */
export function addKeys(more) {
  for (const entry of more) {
    const at = KEYS.findIndex(({ key }) => key === entry.key);
    if (at < 0) KEYS.splice(-1, 0, entry);
    else KEYS[at] = entry;
  }
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && event.target.matches("input[type=search]") && !event.target.value) event.target.blur();
  if (event.target.closest(FIELD) || document.querySelector("dialog[open]")) return;
  const run = KEYS.find(({ key }) => key === event.key)?.run;
  if (!run) return;
  event.preventDefault();
  run(event);
});
document.getElementById("keys").addEventListener("click", () => help(KEYS));
