// A recipe's claims as a table: what each network reaches, how far they differ, and whether that is what was claimed.

import { h } from "./dom.js";
import { measure, plural } from "./format.js";

const CLAIMED = { higher: "claimed: higher for the model", lower: "claimed: lower for the model" };
const VERDICTS = { true: ["good-text", "✓ holds"], false: ["bad-text", "✗ does not hold"] };
export const LEGEND =
  "In brackets, 95% bootstrap intervals. Null: the same quantity with results and items paired at random. " +
  "Difference: model minus baseline, on the same items.";

const range = ({ low, high }) => h("span", { class: "muted" }, ` [${measure(low)}, ${measure(high)}]`);

function cell(label, interval, nothing) {
  const value = interval ? [h("span", { class: "value" }, measure(interval.value)), range(interval)] : ["–"];
  const under = nothing ? h("small", { class: "muted" }, `null ${measure(nothing.value)}`, range(nothing)) : null;
  return h("td", { role: "cell", "data-label": label }, h("span", {}, ...value), under);
}

/** `columns` are pairs of a key of the claim's values and the name to show for it. */
function row(claim, columns) {
  const { quantity, statistic, items, better, of, null: nothing, difference, holds } = claim;
  const [tone, verdict] = VERDICTS[holds] ?? ["muted", "none"];
  const about = [statistic, plural(items, "item"), CLAIMED[better]].filter(Boolean).join(" · ");
  return h(
    "tr",
    { role: "row" },
    h("th", { role: "rowheader", scope: "row" }, String(quantity), h("small", { class: "muted" }, about)),
    ...columns.map(([key, name]) => cell(name, of[key], nothing[key])),
    cell("Difference", difference ?? of.gap), // an area between curves is a difference already
    h("td", { role: "cell", "data-label": "Claim" }, h("span", { class: tone }, verdict)),
  );
}

/** The head and the body of the table; `networks` are names by key. */
export function claimRows(claims, networks) {
  const names = { pixels: "pixel blend", ...networks };
  const keys = new Set([...Object.keys(networks), ...claims.flatMap(({ of }) => Object.keys(of))]);
  keys.delete("gap");
  const columns = [...keys].map((key) => [key, String(names[key] ?? key)]);
  const heads = ["Quantity", ...columns.map(([, name]) => name), "Difference", "Claim"];
  const head = heads.map((text) => h("th", { role: "columnheader", scope: "col" }, text));
  return [
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...head)),
    h("tbody", { role: "rowgroup" }, ...claims.map((claim) => row(claim, columns))),
  ];
}
