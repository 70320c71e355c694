// What a registration's page has in place of items: what the worker found of the network or data set, or what is wrong.

import { getItem } from "./api.js";
import { h } from "./dom.js";
import { pageLink, parameterRows } from "./facts.js";
import { files } from "./files.js";
import { isFinal } from "./format.js";
import { note } from "./ui.js";

const PAGES = { model_registration: "models", dataset_registration: "datasets" };

export class Registration {
  constructor(place) {
    this.place = place;
    const meanwhile = "A worker checks it; once this job has succeeded, jobs can name it.";
    place.replaceChildren(h("p", { class: "loading" }, meanwhile));
  }

  async refresh(job, signal) {
    if (isFinal(job.state)) this.show(job, await getItem(job.id, 0, signal));
  }

  show(job, item) {
    const { name } = job.parameters.request;
    const problems = item.error ? [note("bad", String(item.error.title), item.error.detail ?? "")] : [];
    if (item.state !== "succeeded") return this.place.replaceChildren(...problems);
    const found = h("section", { class: "panel", "aria-labelledby": "found-title" });
    found.append(
      h("h2", { id: "found-title" }, "Registered as ", pageLink(PAGES[job.kind], name)),
      h("table", { class: "pairs", "aria-labelledby": "found-title" }, ...parameterRows(item.metrics ?? {})),
      h("ul", { class: "files" }, ...files(item)),
    );
    return this.place.replaceChildren(found);
  }
}
