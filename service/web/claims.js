// A recipe's claims as a table: what each network reaches, how far they differ, and whether that is what was claimed.

import { h } from "./dom.js";
import { count, measure } from "./format.js";

const CLAIMED = { higher: "model higher", lower: "model lower" };
const VERDICTS = { true: ["good-text", "✓ holds"], false: ["bad-text", "✗ does not hold"] };
export const LEGEND =
  "In brackets, 95% bootstrap intervals. Null: the same quantity with results and items paired at random. " +
  "Difference: model minus baseline, or minus pixels, on the same items; n counts independent ones.";

const range = ({ low, high }) => h("span", { class: "muted" }, `[${measure(low)}, ${measure(high)}]`);

function cell(label, interval, nothing) {
  const value = interval ? [h("span", { class: "value" }, measure(interval.value)), " ", range(interval)] : ["–"];
  const under = nothing ? h("small", { class: "muted" }, `null ${measure(nothing.value)} `, range(nothing)) : null;
  return h("td", { role: "cell", "data-label": label }, h("span", {}, ...value), under);
}

/** `columns` are pairs of a key of the claim's values and the name to show for it. */
function row(claim, columns) {
  const { quantity, statistic, n, better, of, null: nothing, difference, holds } = claim;
  const about = h("small", { class: "muted" }, `${statistic} · n = ${count(n)}`);
  const [tone, verdict] = VERDICTS[holds] ?? ["muted", "–"];
  return h(
    "tr",
    { role: "row" },
    h("th", { role: "rowheader", scope: "row" }, String(quantity), about),
    ...columns.map(([key, name]) => cell(name, of[key], nothing[key])),
    cell("Difference", difference),
    h(
      "td",
      { role: "cell", "data-label": "Claim" },
      h("span", { class: tone }, verdict),
      CLAIMED[better] ? h("small", { class: "muted" }, CLAIMED[better]) : null,
    ),
  );
}

/** The head and the body of the table; `networks` are names by key. */
export function claimRows(claims, networks) {
  const names = { pixels: "pixel blend", ...networks };
  const keys = new Set([...Object.keys(networks), ...claims.flatMap(({ of }) => Object.keys(of))]);
  const columns = [...keys].map((key) => [key, String(names[key] ?? key)]);
  const heads = ["Quantity", ...columns.map(([, name]) => name), "Difference", "Claim"];
  const head = heads.map((text) => h("th", { role: "columnheader", scope: "col" }, text));
  return [
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...head)),
    h("tbody", { role: "rowgroup" }, ...claims.map((claim) => row(claim, columns))),
  ];
}
