// Signing in: by a key, which is sent once and not kept, or by the link that `robustreps serve` prints; and out again.

import { enter, leave } from "./api.js";
import { h } from "./dom.js";
import { isMarked, mark, next } from "./session.js";
import { note, refusal } from "./ui.js";

const TOKEN = "#token=";
const out = document.getElementById("sign-out");

/** Use up the token of a link, if the address has one; answers the error where that failed. */
export async function arrive() {
  const { hash, pathname, search } = window.location;
  if (!hash.startsWith(TOKEN)) return null;
  window.history.replaceState(null, "", pathname + search); // neither in the history nor in what is shared
  try {
    await enter(hash.slice(TOKEN.length));
  } catch (error) {
    return error;
  }
  signedIn(true);
  return null;
}

function signedIn(yes) {
  mark(yes);
  out.hidden = !yes;
}

async function signOut() {
  try {
    await leave();
  } finally {
    signedIn(false);
    window.location.assign("/ui/login");
  }
}

out.addEventListener("click", signOut);
signedIn(isMarked());

export function loginView(main) {
  document.title = "Sign in · robustreps";
  signedIn(false);
  const key = h("input", { type: "password", name: "key", autocomplete: "current-password", required: true, maxlength: 200 });
  const notices = h("div");
  const form = h(
    "form",
    { class: "login", onsubmit: submit },
    h("h1", {}, "Sign in"),
    h("label", { class: "field" }, "Key ", key),
    h("p", { class: "muted" }, "As ", h("code", {}, "robustreps admin keys create"), " made it; an embedded service keeps one in ",
      h("code", {}, "robustreps-data/key"), "."),
    notices,
    h("p", { class: "actions" }, h("button", { class: "solid" }, "Sign in")),
  );
  main.replaceChildren(form);
  key.focus();

  async function submit(event) {
    event.preventDefault();
    try {
      await enter(key.value.trim());
    } catch (error) {
      notices.replaceChildren(error.status === 401 ? note("bad", "Not signed in", error.message) : refusal(error));
      return;
    }
    signedIn(true);
    window.location.assign(next());
  }
}
