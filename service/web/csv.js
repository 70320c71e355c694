// Comma-separated values, as the API writes them: a head, and fields in quotes where they need it.

/** The rows as objects by the names of the head. */
export function parseCsv(text) {
  const [head, ...rows] = text.trimEnd().split(/\r?\n/).map(fields);
  return rows.map((row) => Object.fromEntries(head.map((name, i) => [name, row[i]])));
}

/** A line's fields: each bare or in quotes, where two quotes are one. */
const fields = (line) =>
  [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map(([, quoted, bare]) => quoted?.replaceAll('""', '"') ?? bare);
