// Tables of data. On a narrow page every row becomes a block, and every cell says which column it is of.

import { h } from "./dom.js";

const cells = (value) => (Array.isArray(value) ? value : [value]);

/** A row of such a table: as many cells as `heads`, each a text, a node or a list of them; the first names the row. */
export const dataRow = (heads, [first, ...others]) =>
  h(
    "tr",
    { role: "row" },
    h("th", { role: "rowheader", scope: "row" }, ...cells(first)),
    ...others.map((value, i) => h("td", { role: "cell", "data-label": heads[i + 1] }, h("span", {}, ...cells(value)))),
  );

/** `heads` are texts; `rows` are lists of cells. */
export function dataTable(label, heads, rows) {
  const head = heads.map((text) => h("th", { role: "columnheader", scope: "col" }, text));
  return h(
    "table",
    { class: "data", role: "table", "aria-label": label },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...head)),
    h("tbody", { role: "rowgroup" }, ...rows.map((row) => dataRow(heads, row))),
  );
}

/** A table with many columns or rows, which scrolls in a frame of its own. */
export function wideTable(label, heads, rows) {
  const line = ([first, ...others]) =>
    h("tr", {}, h("th", { scope: "row" }, ...cells(first)), ...others.map((value) => h("td", {}, ...cells(value))));
  const table = h(
    "table",
    { class: "wide", "aria-label": label },
    h("thead", {}, h("tr", {}, ...heads.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, ...rows.map(line)),
  );
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${label}, scrolls` }, table);
}

export const small = (...text) => h("small", { class: "muted" }, ...text);
