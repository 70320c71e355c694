// A new job: a form made from the API's own description, checked by it and by a dry run, with what it would cost.

import * as api from "./api.js";
import { h } from "./dom.js";
import { Estimate } from "./estimate.js";
import { jobLink, jobUrl } from "./facts.js";
import { fieldsOf, valuesOf } from "./fields.js";
import { plural } from "./format.js";
import { describe, showUsual } from "./hints.js";
import { addKeys } from "./keyboard.js";
import { fieldAt, showErrors } from "./problems.js";
import { mergePatch } from "./request.js";
import { RequestView } from "./requestview.js";
import { Schemas } from "./schema.js";
import { Sections } from "./sections.js";
import { announce } from "./ui.js";
import { Usual } from "./usual.js";

const PAUSE_MS = 250; // after the last change, before the service is asked
const AGAIN_MS = 5000; // after it could not be reached

const errorsOf = ({ errors, message }) => (errors.length ? errors : [{ field: "", message }]);

export class NewJob {
  constructor(main, registries, openapi, recipes, cloned) {
    this.registries = registries;
    this.schemas = new Schemas(openapi, recipes);
    this.usual = new Usual(this.schemas, registries);
    this.cloned = cloned;
    this.said = (name) => this.body[name];
    this.memory = {};
    this.sections = new Sections(this.schemas, [...this.schemas.kinds.values()], (id) => this.choose(id));
    this.estimate = new Estimate(
      () => this.submit(),
      (field) => this.go(field),
    );
    this.view = new RequestView((body) => this.edit(body));
    const beside = h("div", { class: "beside" }, this.estimate.node, this.view.node);
    this.form = h("form", { class: "new-job", novalidate: true }, this.sections.node, beside);
    // A file that misses its place would otherwise be opened in place of the page.
    for (const type of ["dragover", "drop"]) window.addEventListener(type, (event) => event.preventDefault());
    addKeys([{ key: "Ctrl+Enter", label: "Submit" }]);
    this.form.addEventListener(
      "keydown",
      ({ key, ctrlKey, metaKey }) => key === "Enter" && (ctrlKey || metaKey) && this.submit(),
    );
    const crumb =
      cloned &&
      h("p", { class: "crumb" }, "From ", jobLink(cloned.id));
    main.replaceChildren(h("div", { class: "title-row" }, h("h1", {}, "New job"), crumb ?? ""), this.form);
    this.begin();
  }

  /** With what is cloned, what stood here before the page was left, or what the address says. */
  begin() {
    const { kind: asked, clone: _, ...query } = Object.fromEntries(new URLSearchParams(window.location.search));
    const kept = window.history.state;
    if (kept?.kind && this.schemas.kinds.has(kept.kind)) this.start(kept.kind, kept.body);
    else if (this.cloned) {
      const more = this.usual.more(query.with, this.cloned.body);
      this.start(this.cloned.kind, { ...this.cloned.body, ...more });
      if (query.with in more) this.go(query.with);
    } else {
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
    this.given = null; // what it warns of before anything is changed
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
    this.key = api.newKey();
    this.asking?.abort();
    this.asking = new AbortController();
    clearTimeout(this.timer);
    describe(this.fields, this.card("models", this.body.model));
    this.sections.said(this.fields);
    const errors = this.schemas.errors(this.kind.schema, this.body);
    if (errors.length) this.refuse(errors);
    else this.estimate.wait();
    this.timer = setTimeout(() => {
      if (!errors.length) this.ask(this.asking.signal);
      this.keep();
    }, PAUSE_MS);
  }

  /** For when the page is left and come back to; a browser may refuse a state that is large, or set too often. */
  keep() {
    try {
      window.history.replaceState({ kind: this.kind.id, body: this.body }, "");
    } catch {
      // then what was filled in is not kept, and all else goes on
    }
  }

  async ask(signal) {
    try {
      const plan = await api.preview(this.kind.address, this.body, signal);
      showErrors(this.form, []);
      this.given ??= plan.warnings;
      this.estimate.show(plan, this.given);
      showUsual(this.fields, this.body, plan);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof api.Refused) return this.refuse(errorsOf(error));
      this.estimate.fail(error.message);
      this.timer = setTimeout(() => this.ask(signal), AGAIN_MS);
    }
  }

  refuse(errors) {
    showErrors(this.form, errors);
    this.estimate.refuse(errors);
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

  async submit() {
    const errors = this.schemas.errors(this.kind.schema, this.body);
    if (errors.length) {
      this.refuse(errors);
      return this.go(errors[0].field);
    }
    this.estimate.button.disabled = true;
    try {
      const { id } = await this.send();
      window.location.assign(jobUrl(id));
    } catch (error) {
      this.estimate.button.disabled = false;
      if (!(error instanceof api.Refused)) return this.estimate.fail(error.message);
      const found = errorsOf(error);
      this.refuse(found);
      announce(`${plural(found.length, "field")} to change`);
      this.go(found[0].field);
    }
  }
}
