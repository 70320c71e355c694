// Panels of which one is shown, chosen by buttons above them; the choice lives in the address, as ?tab=NAME.

import { h, setAttribute, setText } from "./dom.js";

const WIDE = window.matchMedia("(min-width: 1000px)");
const chosen = () => new URLSearchParams(window.location.search).get("tab");

export class Tabs {
  /**
   * `panels`: {name, label, node, narrow}; the first is shown unless the address names another. A `narrow` one is a tab
   * on narrow pages only, on wide ones it always stands beside the others. `changed(name)` is called after each change.
   */
  constructor(list, panels, changed) {
    this.panels = panels;
    this.changed = changed;
    this.buttons = new Map(panels.map((panel) => [panel.name, this.button(panel)]));
    list.replaceChildren(...this.buttons.values());
    list.addEventListener("keydown", (event) => this.key(event));
    WIDE.addEventListener("change", () => this.show(this.name));
    this.show(chosen() ?? panels[0].name);
  }

  button({ name, label, node }) {
    node.id ||= `panel-${name}`;
    const ids = { id: `tab-${name}`, "aria-controls": node.id };
    for (const [key, value] of Object.entries({ role: "tabpanel", "aria-labelledby": ids.id }))
      node.setAttribute(key, value);
    const choose = () => this.choose(name);
    return h("button", { type: "button", role: "tab", ...ids, onclick: choose }, label);
  }

  /** Show `name`, or the first panel where that is no tab now. */
  show(name) {
    const tabs = this.panels.filter((panel) => !panel.vacant && !(panel.narrow && WIDE.matches));
    const before = this.name;
    this.name = tabs.some((tab) => tab.name === name) ? name : tabs[0].name;
    for (const panel of this.panels) {
      const [here, button] = [panel.name === this.name, this.buttons.get(panel.name)];
      button.hidden = !tabs.includes(panel);
      panel.node.hidden = !here && !(panel.narrow && WIDE.matches);
      setAttribute(button, "aria-selected", String(here));
      button.tabIndex = here ? 0 : -1;
    }
    if (this.name !== before) this.changed(this.name);
  }

  /** Offer the panel `name` or not, with `label` on its button. */
  offer(name, offered, label) {
    const panel = this.panels.find((each) => each.name === name);
    if (!panel) return;
    setText(this.buttons.get(name), label);
    if (panel.vacant === !offered) return;
    panel.vacant = !offered;
    this.show(chosen() ?? this.name);
  }

  choose(name) {
    const url = new URL(window.location.href);
    if (name === this.panels[0].name) url.searchParams.delete("tab");
    else url.searchParams.set("tab", name);
    window.history.replaceState(window.history.state, "", url);
    this.show(name);
    this.buttons.get(name).scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const shown = [...this.buttons.entries()].filter(([, button]) => !button.hidden);
    const at = shown.findIndex(([name]) => name === this.name);
    const [name, button] = shown[(at + step + shown.length) % shown.length];
    event.preventDefault();
    this.choose(name);
    button.focus();
  }
}
