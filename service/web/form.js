// A new job: a form made from the API's own description, checked by it and by a dry run, with what it would cost.

import * as api from "./api.js";
import { h } from "./dom.js";
import { Estimate } from "./estimate.js";
import { fieldsOf, valuesOf } from "./fields.js";
import { accuracy, plural } from "./format.js";
import { poll } from "./poll.js";
import { fieldAt, showErrors } from "./problems.js";
import { mergePatch } from "./request.js";
import { RequestView } from "./requestview.js";
import { Schemas } from "./schema.js";
import { Sections } from "./sections.js";
import { announce, hideBanner, messagePage, refusal, showBanner } from "./ui.js";
import { Usual } from "./usual.js";

const PAUSE_MS = 250; // after the last change, before the service is asked
/** What a preset comes to, in words. */
const SUMMARY = {
  solver: (value) => value,
  eps: (value) => value && `eps ${value}`,
  step_size: (value) => `step size ${value}`,
  steps: (value) => plural(value, "step"),
  epochs: (value) => plural(value, "epoch"),
};

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** A key for a request: nobody else's, so that sending it twice makes one job. */
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((n) => n.toString(16).padStart(2, "0")).join("");

class NewJob {
  constructor(main, registries, openapi, recipes, cloned) {
    this.registries = registries;
    this.schemas = new Schemas(openapi, recipes);
    this.usual = new Usual(this.schemas, registries);
    this.cloned = cloned;
    this.said = (name) => this.body[name];
    this.memory = {};
    this.sections = new Sections(this.schemas, [...this.schemas.kinds.values()], (id) => this.choose(id));
    this.estimate = new Estimate((event) => this.submit(event), (field) => this.go(field));
    this.view = new RequestView((body) => this.edit(body));
    const beside = h("div", { class: "beside" }, this.estimate.node, this.view.node);
    this.form = h("form", { class: "new-job", novalidate: true }, this.sections.node, beside);
    this.form.addEventListener("submit", (event) => event.preventDefault());
    const crumb = cloned && h("p", { class: "crumb" }, "From ", h("a", { href: `/ui/jobs/${cloned.id}`, class: "mono" }, cloned.id));
    main.replaceChildren(h("div", { class: "title-row" }, h("h1", {}, "New job"), crumb ?? ""), this.form);
    this.begin();
  }

  /** With what is cloned, what stood here before the page was left, or what the address says. */
  begin() {
    const { kind: asked, clone: _, ...query } = Object.fromEntries(new URLSearchParams(window.location.search));
    const kept = window.history.state;
    if (kept?.kind && this.schemas.kinds.has(kept.kind)) this.start(kept.kind, kept.body);
    else if (this.cloned) this.start(this.cloned.kind, this.cloned.body);
    else {
      const kind = this.schemas.kinds.get(asked) ?? this.schemas.kinds.values().next().value;
      this.start(kind.id, this.usual.request(kind, query));
    }
  }

  names = (registry) => this.registries[registry].map(({ name }) => name);

  card = (registry, name) => this.usual.card(registry, name);

  usualSource = (source) => this.usual.source(source, this.card("models", this.said("model")));

  /** What a new entry of a list is. */
  usualFor(items) {
    if (!this.schemas.isSource(items)) return {};
    return this.usualSource(this.schemas.variants(this.schemas.plain(items)).noise ? "noise" : "dataset");
  }

  choose(id) {
    this.memory = { ...this.memory, ...this.body };
    const { kind: _, ...before } = this.memory;
    this.start(id, this.usual.request(this.schemas.kinds.get(id), before));
  }

  /** Make the form of a kind, filled in. */
  start(id, body) {
    this.kind = this.schemas.kinds.get(id);
    this.fields = this.sections.show(this.kind, fieldsOf(this.kind.schema, "", this));
    this.fill(body);
    this.changed();
  }

  fill(body) {
    this.body = body;
    for (const field of this.fields) {
      field.usual(this.schemas.plain(this.kind.schema.properties[field.name]).default);
      field.set(body[field.name]);
    }
  }

  /** A field has changed. */
  changed() {
    const { kind } = this.kind.schema.properties;
    this.body = { ...(kind && { kind: kind.const }), ...valuesOf(this.fields) };
    this.view.show(this.kind.address, this.body);
    this.check();
  }

  /** The request was written by hand: the form follows. */
  edit(body) {
    const known = this.schemas.kinds.get(body.kind);
    if (known && known !== this.kind) {
      this.kind = known;
      this.fields = this.sections.show(known, fieldsOf(known.schema, "", this));
    }
    this.fill(body);
    this.check();
  }

  /** By the schema at once, and by the service a little later. */
  check() {
    this.key = newKey();
    this.asking?.abort();
    this.asking = new AbortController();
    clearTimeout(this.timer);
    this.describe();
    this.sections.said(this.fields);
    window.history.replaceState({ kind: this.kind.id, body: this.body }, "");
    const errors = this.schemas.errors(this.kind.schema, this.body);
    if (errors.length) return this.refuse(errors);
    this.estimate.wait();
    this.timer = setTimeout(() => this.ask(this.asking.signal), PAUSE_MS);
  }

  async ask(signal) {
    try {
      const plan = await api.preview(this.kind.address, this.body, signal);
      hideBanner();
      showErrors(this.form, []);
      this.estimate.show(plan);
      this.showUsual(plan);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof api.Refused) this.refuse(error.errors.length ? error.errors : [{ field: "", message: error.message }]);
      else this.estimate.fail(error.message);
    }
  }

  refuse(errors) {
    showErrors(this.form, errors);
    this.estimate.refuse(errors);
  }

  /** What stands where the request says nothing, as the service resolved it; for a recipe, where all its parts agree. */
  showUsual({ parameters, parts }) {
    const each = Object.values(parts ?? {});
    const [first] = each;
    const all = first ? Object.entries(first).filter(([name, value]) => each.every((part) => same(part[name], value))) : [];
    const found = { ...Object.fromEntries(all), ...parameters, ...parameters.networks };
    for (const field of this.fields)
      if (field.get() === undefined || isObject(found[field.name])) field.usual(found[field.name] ?? field.plain.default);
    const preset = this.fields.find(({ name }) => name === "preset");
    const brief = Object.keys(SUMMARY).filter((name) => (found[name] ?? null) !== null && this.body[name] === undefined);
    preset?.say(brief.map((name) => SUMMARY[name](found[name])).filter(Boolean).join(", "));
  }

  /** What the chosen network is. */
  describe() {
    const field = this.fields.find(({ name }) => name === "model");
    const card = this.card("models", this.body.model);
    if (!field || !card) return;
    const measured = card.clean_accuracy && `${accuracy(card.clean_accuracy)} clean`;
    const attacked = card.pgd20_accuracy && `${accuracy(card.pgd20_accuracy)} under PGD-20`;
    field.say([card.architecture, `${card.input_size} px`, measured, attacked].filter(Boolean).join(", "));
  }

  go(field) {
    const node = fieldAt(this.form, field);
    if (!node) return this.view.area.focus();
    for (let at = node; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    const control = node.querySelector("[data-control]") ?? node.querySelector("input, select, textarea, button");
    control?.focus();
  }

  /** What is cloned, and still of its kind, stays known as its clone. */
  send() {
    const { id, kind, body } = this.cloned ?? {};
    if (kind !== this.kind.id) return api.postJob(this.kind.address, this.body, this.key);
    return api.cloneJob(id, mergePatch(body, this.body), this.key);
  }

  async submit(event) {
    event.preventDefault();
    const errors = this.schemas.errors(this.kind.schema, this.body);
    if (errors.length) {
      this.refuse(errors);
      return this.go(errors[0].field);
    }
    this.estimate.button.disabled = true;
    try {
      const { id } = await this.send();
      window.location.assign(`/ui/jobs/${encodeURIComponent(id)}`);
    } catch (error) {
      this.estimate.button.disabled = false;
      if (!(error instanceof api.Refused)) return this.estimate.fail(error.message);
      const found = error.errors.length ? error.errors : [{ field: "", message: error.message }];
      this.refuse(found);
      announce(plural(found.length, "field needs a change"));
      this.go(found[0].field);
    }
  }
}

const kindOf = ({ address, body }) => body.kind ?? address.split("/v1/recipes/")[1];

async function load(main, signal) {
  const clone = new URLSearchParams(window.location.search).get("clone");
  const [openapi, recipes, models, datasets, architectures] = await Promise.all(
    [api.getOpenapi, api.listRecipes, api.listModels, api.listDatasets, api.listArchitectures].map((get) => get(signal)),
  );
  const sent = clone && (await api.getRequest(clone, signal));
  const named = Object.keys(architectures).map((name) => ({ name }));
  const cloned = sent && { id: clone, kind: kindOf(sent), body: sent.body };
  if (cloned && !cloned.kind) return messagePage(main, "Nothing to clone", "What a registry holds is registered by name.");
  return new NewJob(main, { models, datasets, architectures: named }, openapi, recipes, cloned);
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
