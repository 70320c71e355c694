// Views of the list: filters with a name. Three are given; the user's own are kept by this browser.

import { h } from "./dom.js";
import { announce } from "./ui.js";

const KEY = "robustreps.views";
const GIVEN = [
  { name: "All", query: "" },
  { name: "Active", query: "state=active" },
  { name: "Failed", query: "state=failed&state=partially_succeeded&state=expired" },
];

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY));
    return kept.filter(({ name, query }) => typeof name === "string" && typeof query === "string");
  } catch {
    return []; // none yet, or a browser that keeps nothing
  }
}

function write(views) {
  try {
    localStorage.setItem(KEY, JSON.stringify(views));
  } catch {
    announce("This browser keeps no views");
  }
}

/** Ask for a name; null if there is none. */
function askName() {
  const field = h("input", { name: "name", required: true, maxlength: 40, autocomplete: "off", autofocus: true });
  const actions = h(
    "p",
    { class: "actions" },
    h("button", { type: "button", onclick: () => dialog.close() }, "Do not save"),
    h("button", { value: "save", class: "solid" }, "Save"),
  );
  const title = h("h2", { id: "view-title" }, "Save this view");
  const form = h("form", { method: "dialog" }, title, h("label", { class: "field wide-field" }, "Name ", field), actions);
  const dialog = h("dialog", { "aria-labelledby": "view-title" }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "save" ? field.value.trim() || null : null);
    });
  });
}

export class Views {
  /** `go(query)` is called with the query of the view that is chosen. */
  constructor(place, go) {
    this.place = place;
    this.go = go;
    this.save = h("button", { type: "button", class: "quiet", onclick: () => this.keep() }, "Save view");
    this.remove = h("button", { type: "button", class: "quiet", onclick: () => this.drop() }, "Remove view");
  }

  show(query) {
    this.query = query;
    const views = [...GIVEN, ...read()];
    const current = views.find((view) => view.query === query);
    this.save.hidden = current !== undefined;
    this.remove.hidden = !current || GIVEN.includes(current);
    this.place.replaceChildren(...views.map((view) => this.link(view, view === current)), this.save, this.remove);
  }

  link({ name, query }, current) {
    const follow = (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // in a tab of its own
      event.preventDefault();
      this.go(query);
      this.place.querySelector("[aria-current]")?.focus();
    };
    return h("a", { href: query ? `/ui/?${query}` : "/ui/", "aria-current": current && "true", onclick: follow }, name);
  }

  async keep() {
    const { query } = this;
    const name = await askName();
    if (name === null) return;
    write([...read().filter((view) => view.name !== name), { name, query }]);
    announce(`The view ${name} is saved`);
    this.show(this.query);
  }

  drop() {
    write(read().filter(({ query }) => query !== this.query));
    announce("The view is removed");
    this.show(this.query);
    this.save.focus();
  }
}
