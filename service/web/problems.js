// What is wrong with a request, at the fields that it is about.

import { setAttribute, setText } from "./dom.js";

/** The field of a dotted path, or the nearest that holds it. */
export function fieldAt(root, path) {
  const parts = String(path).split(".");
  for (; parts.length; parts.pop()) {
    const node = root.querySelector(`[data-field="${CSS.escape(parts.join("."))}"]`);
    if (node) return node;
  }
  return null;
}

/** Show errors, {field, message}, at their fields, and take away those that were there. */
export function showErrors(root, errors) {
  const found = new Map();
  for (const { field, message } of errors) {
    const node = fieldAt(root, field);
    const within = node && String(field).slice(node.dataset.field.length + 1);
    const text = within ? `${within} ${message}` : message;
    if (node) found.set(node, [...(found.get(node) ?? []), text]);
  }
  for (const node of root.querySelectorAll("[data-field]")) {
    const texts = found.get(node) ?? [];
    const problem = node.querySelector(":scope > .problem:last-child") ?? node.querySelector(":scope > .problem");
    if (problem) setText(problem, texts.join("; "));
    const control = node.querySelector(
      ":scope > [data-control], :scope > label > [data-control], :scope > .source-head > [data-control]",
    );
    if (control) setAttribute(control, "aria-invalid", String(texts.length > 0));
    for (let at = node.parentElement; texts.length && at; at = at.parentElement)
      if (at.tagName === "DETAILS") at.open = true;
  }
}
