// What is to be copied.

import { h } from "./dom.js";
import { announce } from "./ui.js";

/** Copy, or where the page may not (plain http to another machine), show what is to be copied. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    announce(`${what} copied`);
  } catch {
    const area = h("textarea", { class: "mono", rows: 14, readonly: true, "aria-label": what });
    area.value = text;
    const form = h("form", { method: "dialog" }, h("h2", { id: "copy-title" }, `Copy ${what}`), area);
    form.append(h("p", { class: "actions" }, h("button", { class: "solid" }, "Close")));
    const dialog = h("dialog", { class: "wide-dialog", "aria-labelledby": "copy-title" }, form);
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
    area.select();
  }
}
