// How a value is written in a text field, and read back. What cannot be read stays as it was typed, so that the check
// by the schema names it; an empty text is no value.

const LONGEST = 70_000; // more than any list may have, and little enough to be held

const number = (text) => (text !== "" && Number.isFinite(Number(text)) ? Number(text) : text);
const split = (text, by) =>
  text
    .split(by)
    .map((each) => each.trim())
    .filter(Boolean);
const some = (list) => (list.length ? list : undefined);

/** "3-7" is 3, 4, 5, 6, 7. */
function range(text) {
  const [, from, to] = /^(\d+)-(\d+)$/.exec(text)?.map(Number) ?? [];
  if (from === undefined || to < from || to - from > LONGEST) return [number(text)];
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}

/** Neighbours that count up by one, three of them or more, become a range. */
function runs(list) {
  const found = [];
  for (const value of list) {
    const last = found.at(-1);
    if (last && Number.isInteger(value) && value === last.at(-1) + 1) last.push(value);
    else found.push([value]);
  }
  return found.flatMap((run) => (run.length > 2 ? [`${run[0]}-${run.at(-1)}`] : run)).join(", ");
}

const term = (text) => {
  const [coordinate, weight] = split(text, ":").map(number);
  return weight === undefined ? { coordinate } : { coordinate, weight };
};
const termText = ({ coordinate, weight }) => (weight === undefined ? `${coordinate}` : `${coordinate}:${weight}`);

function json(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** A moment as a field for local time has it, without its zone. */
function local(iso) {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return "";
  return new Date(at.getTime() - 60_000 * at.getTimezoneOffset()).toISOString().slice(0, 19);
}

/** Local time as a moment; what no calendar has stays as it is. */
function moment(text) {
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? text : at.toISOString();
}

const DAY = 86_400;

export const CODECS = {
  text: { parse: (text) => text || undefined, format: String },
  number: { parse: (text) => (text.trim() ? number(text.trim()) : undefined), format: String },
  numbers: { parse: (text) => some(split(text, /[,\s]+/).map(number)), format: (list) => list.join(", ") },
  integers: { parse: (text) => some(split(text.replaceAll(/\s*-\s*/g, "-"), /[,\s]+/).flatMap(range)), format: runs },
  lines: { parse: (text) => some(split(text, "\n")), format: (list) => list.join("\n") },
  pairs: {
    parse(text) {
      const pairs = split(text, "\n").map((line) => [
        line.split("=")[0].trim(),
        line.split("=").slice(1).join("=").trim(),
      ]);
      return pairs.length ? Object.fromEntries(pairs) : undefined;
    },
    format: (labels) =>
      Object.entries(labels)
        .map(([key, value]) => `${key}=${value}`)
        .join("\n"),
  },
  combinations: {
    parse: (text) => some(split(text, "\n").map((line) => split(line, ",").map(term))),
    format: (list) => list.map((terms) => terms.map(termText).join(", ")).join("\n"),
  },
  json: { parse: (text) => (text.trim() ? json(text) : undefined), format: (value) => JSON.stringify(value, null, 2) },
  time: { parse: (text) => (text ? moment(text) : undefined), format: local },
  days: {
    parse(text) {
      const days = CODECS.number.parse(text);
      return typeof days === "number" ? Math.round(days * DAY) : days;
    },
    format: (seconds) => String(seconds / DAY),
  },
};
