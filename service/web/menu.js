// A button that opens a short list of links and buttons; it closes by Escape, a click elsewhere, or a choice.

import { h } from "./dom.js";

let menus = 0;

export function menu(label, entries) {
  menus += 1;
  const list = h("ul", { id: `menu-${menus}`, class: "menu", popover: "auto", "aria-label": label });
  list.append(...entries.map((entry) => h("li", {}, entry)));
  const button = h("button", { type: "button", class: "opens", popovertarget: list.id, "aria-expanded": "false" }, label);
  list.addEventListener("beforetoggle", ({ newState }) => {
    const { bottom, left } = button.getBoundingClientRect();
    list.style.top = `${bottom + window.scrollY + 4}px`;
    list.style.left = `${Math.max(8, Math.min(left, document.documentElement.clientWidth - 240))}px`;
    button.setAttribute("aria-expanded", String(newState === "open"));
  });
  list.addEventListener("click", () => list.hidePopover());
  return h("span", {}, button, list);
}
