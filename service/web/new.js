// The page of a new job: what its form is made from, and what it begins with.

import * as api from "./api.js";
import { h } from "./dom.js";
import { NewJob } from "./form.js";
import { poll } from "./poll.js";
import { hideBanner, messagePage, note, refusal, showBanner } from "./ui.js";

const kindOf = ({ address, body }) => body.kind ?? address.split("/v1/recipes/")[1];

/** A job's request; or, where it cannot be had, null and a note that says why. */
async function requestOf(id, signal) {
  try {
    return [await api.getRequest(id, signal)];
  } catch (error) {
    if (!(error instanceof api.Refused)) throw error;
    return [null, note("mixed", "This job cannot be cloned: the form is a new one", error.message)];
  }
}

async function load(main, signal) {
  const clone = new URLSearchParams(window.location.search).get("clone");
  const [openapi, recipes, models, datasets, architectures] = await Promise.all(
    [api.getOpenapi, api.listRecipes, api.listModels, api.listDatasets, api.listArchitectures].map((get) =>
      get(signal),
    ),
  );
  const [sent, problem] = clone ? await requestOf(clone, signal) : [];
  const named = Object.keys(architectures).map((name) => ({ name }));
  const cloned = sent && { id: clone, kind: kindOf(sent), body: sent.body };
  if (cloned && !cloned.kind)
    return messagePage(main, "Nothing to clone", "What a registry holds is registered by name.");
  new NewJob(main, { models, datasets, architectures: named }, openapi, recipes, cloned);
  if (problem) main.firstElementChild.after(problem);
}

export function formView(main) {
  document.title = "New job · robustreps";
  main.replaceChildren(h("p", { class: "loading" }, "Loading…"));
  const begin = async (signal) => {
    await load(main, signal);
    return false;
  };
  const refused = (error) => main.replaceChildren(refusal(error));
  poll(begin, { up: hideBanner, down: (error, retry) => showBanner(error.message, retry), refused });
}
