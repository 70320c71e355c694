// What stands where a request says nothing, as a dry run resolved it, and what is chosen in a few words.

import { accuracy, plural } from "./format.js";

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const named = (fields, name) => fields.find((field) => field.name === name);

/** What a preset comes to, in words. */
const SUMMARY = {
  solver: (value) => value,
  eps: (value) => value && `eps ${value}`,
  step_size: (value) => `step size ${value}`,
  steps: (value) => plural(value, "step"),
  epochs: (value) => plural(value, "epoch"),
};

/** Parameters of a plan; of a recipe's, those that all its parts have alike. */
function resolved({ parameters, parts }) {
  const [first = {}, ...others] = Object.values(parts);
  const shared = Object.entries(first).filter(([name, value]) => others.every((part) => same(part[name], value)));
  return { ...Object.fromEntries(shared), ...parameters, ...parameters.networks };
}

export function showUsual(fields, body, plan) {
  const found = resolved(plan);
  for (const field of fields)
    if (body[field.name] === undefined || field.follows) field.usual(found[field.name] ?? field.plain.default);
  const unsaid = Object.entries(SUMMARY).filter(([name]) => (found[name] ?? null) !== null && body[name] === undefined);
  const brief = unsaid.map(([name, words]) => words(found[name])).filter(Boolean);
  named(fields, "preset")?.say(brief.join(", "));
}

/** What the chosen network is, by its card. */
export function describe(fields, card) {
  const measured = card?.clean_accuracy && `${accuracy(card.clean_accuracy)} clean`;
  const attacked = card?.pgd20_accuracy && `${accuracy(card.pgd20_accuracy)} under PGD-20`;
  if (card)
    named(fields, "model")?.say(
      [card.architecture, `${card.input_size} px`, measured, attacked].filter(Boolean).join(", "),
    );
}
