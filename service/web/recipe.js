// What a recipe's page has in place of items: the figure, the claims behind it, and the parts it is drawn from.

import { getArtifact, listItems, listJobs } from "./api.js";
import { claimRows, LEGEND } from "./claims.js";
import { arrange, changes, h, setText } from "./dom.js";
import { bytes, isFinal } from "./format.js";
import { artifact } from "./picture.js";
import { jobTable, kindOf, Row } from "./rows.js";
import { Panels } from "./study.js";
import { note } from "./ui.js";

const MOST_PARTS = 100;
const FILES = { "figure.png": "PNG", "figure.pdf": "PDF", "numbers.json": "JSON", "numbers.csv": "CSV" };

/** A part by its network's name, and by what sets it apart from other parts of that network. */
function partName({ parameters: { networks } }, label) {
  const [network, ...rest] = label.split("/");
  return [networks[network] ?? network, ...rest].join(", ");
}

/** A link to the items of both networks side by side, for each pair of studies that differ by the network alone. */
function comparisons(ids, jobs) {
  return [...ids].flatMap(([label, a]) => {
    const b = label.startsWith("model") && ids.get(label.replace(/^model/, "baseline"));
    if (!b || jobs.get(a).kind === "evaluation") return [];
    const [, ...rest] = label.split("/");
    const href = `/ui/compare?${new URLSearchParams({ a, b })}`;
    return [h("a", { href }, ["Compare item by item", ...rest].join(", ")), " "];
  });
}

export class Recipe {
  constructor(place) {
    this.figure = h("section", { class: "panel figure", "aria-label": "Figure", hidden: true });
    this.held = h("small");
    this.claims = h("table", { class: "claims data", role: "table", "aria-labelledby": "claims-title" });
    this.claimed = h(
      "section",
      { "aria-labelledby": "claims-title", hidden: true },
      h("h2", { id: "claims-title" }, "Claims ", this.held),
      this.claims,
      h("p", { class: "muted legend" }, LEGEND),
    );
    this.problem = h("div");
    this.table = jobTable("Parts", "Part");
    this.parts = new Map();
    this.compare = h("small");
    this.pairs = changes();
    const parts = h("section", { class: "parts" }, h("h2", {}, "Parts ", this.compare), this.table.node);
    const closer = h("div", { class: "items study" });
    this.panels = new Panels(closer);
    place.replaceChildren(this.problem, this.figure, closer, this.claimed, parts);
  }

  /**
   * The parts as they are and, once the job is over, its figure. Answers how many parts are in each state.
   * A cancelled recipe is over before its parts have let go: `moves` says whether any part is not over yet.
   */
  async refresh(job, signal) {
    const { jobs } = await listJobs({ parent: job.id, limit: MOST_PARTS }, signal);
    const found = new Map(jobs.map((part) => [part.id, part]));
    const networks = Object.keys(job.parameters.networks);
    const rank = ([label]) => networks.indexOf(label.split("/")[0]);
    const labelled = Object.entries(job.parts).filter(([, id]) => found.has(id));
    labelled.sort((a, b) => rank(a) - rank(b)); // stable: the API has them by label
    for (const [label, id] of labelled) {
      if (this.parts.has(id)) this.parts.get(id).update(found.get(id));
      else this.parts.set(id, new Row(found.get(id), label.replace("/", " / ")));
    }
    arrange(
      this.table.rows,
      labelled.map(([, id]) => this.parts.get(id).node),
    );
    if (this.pairs(labelled)) this.compare.replaceChildren(...comparisons(new Map(labelled), found));
    if (isFinal(job.state) && !this.drawn) await this.draw(job, signal);
    await this.panels.refresh(
      labelled.map(([label, id]) => [partName(job, label), found.get(id)]),
      signal,
    );
    this.moves = jobs.some(({ state }) => !isFinal(state));
    const counts = { total: jobs.length };
    for (const { state } of jobs) counts[state] = (counts[state] ?? 0) + 1;
    return counts;
  }

  async draw(job, signal) {
    const [item] = (await listItems(job.id, { limit: 1 }, signal)).items;
    if (item.error) this.problem.replaceChildren(note("bad", String(item.error.title), item.error.detail ?? ""));
    const image = artifact(item, "figure.png");
    if (image) this.showFigure(job, item, image.url);
    const numbers = artifact(item, "numbers.json");
    if (numbers) this.showClaims(await getArtifact(numbers.url, signal));
    this.drawn = true;
  }

  showFigure(job, item, url) {
    const files = Object.entries(FILES).flatMap(([name, label]) => {
      const file = artifact(item, name);
      return file ? [h("a", { href: file.url, download: true, title: `${name}, ${bytes(file.size)}` }, label)] : [];
    });
    this.figure.replaceChildren(
      h("a", { href: url, title: "Open the figure alone" }, h("img", { src: url, alt: kindOf(job) })),
      h("p", { class: "downloads" }, h("span", { class: "muted" }, "Download"), ...files),
    );
    this.figure.hidden = false;
  }

  showClaims({ claims, networks }) {
    const made = claims.filter(({ holds }) => holds !== null);
    const held = made.filter(({ holds }) => holds);
    setText(this.held, made.length ? `${held.length} of ${made.length} hold` : "none made");
    this.claims.replaceChildren(...claimRows(claims, networks));
    this.claimed.hidden = claims.length === 0;
  }
}
