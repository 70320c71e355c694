// A job's request as text, as commands that post it again, and what was changed of it as a merge patch (RFC 7396).

const INDENT = "    ";
/** Characters of a list or an object in one line. */
const SHORT = 60;

/** JSON in which what is short stands in one line. */
export function written(value, indent = "") {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const inner = `${indent}  `;
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const lines = Object.entries(value).map(([key, each]) => {
    const text = written(each, inner);
    return Array.isArray(value) ? text : `${JSON.stringify(key)}: ${text}`;
  });
  const short = `${open}${lines.join(", ")}${close}`;
  const fits = lines.length === 0 || (indent && short.length < SHORT && !short.includes("\n"));
  return fits ? short : `${open}\n${inner}${lines.join(`,\n${inner}`)}\n${indent}${close}`;
}

/** In single quotes of a shell, in which only the quote itself needs care. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function asCurl({ address, body }) {
  const url = quoted(window.location.origin + address);
  return `curl -sf ${url} -H 'Content-Type: application/json' -d ${quoted(written(body))}`;
}

/** A JSON value as Python writes it; a JSON string is a Python string. */
function literal(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = indent + INDENT;
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const entries = Array.isArray(value)
    ? value.map((each) => literal(each, inner))
    : Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each, inner)}`);
  const line = `${open}${entries.join(", ")}${close}`;
  if (line.length < 80 && !line.includes("\n")) return line;
  return `${open}\n${entries.map((entry) => `${inner}${entry},\n`).join("")}${indent}${close}`;
}

const CALLS = { models: "register_model(**", datasets: "register_dataset(**" };

export function asPython({ address, body }) {
  const name = address.split("/").at(-1);
  const recipe = address.startsWith("/v1/recipes/") && `recipe(${JSON.stringify(name)}, **`;
  const call = recipe || CALLS[name] || "submit(";
  return [
    "from service.client import Client",
    "",
    `with Client(${JSON.stringify(window.location.origin)}) as client:`,
    `${INDENT}job = client.${call}${literal(body, INDENT)})`,
    `${INDENT}client.wait(job, progress=True)`,
    "",
  ].join("\n");
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** The merge patch that makes `after` of `before`. A null that `after` sets is as good as left out in every request. */
export function mergePatch(before, after) {
  const patch = {};
  for (const name of Object.keys(before)) if (!(name in after)) patch[name] = null;
  for (const [name, value] of Object.entries(after)) {
    if (isObject(value) && isObject(before[name])) {
      const inner = mergePatch(before[name], value);
      if (Object.keys(inner).length > 0) patch[name] = inner;
    } else if (JSON.stringify(value) !== JSON.stringify(before[name])) patch[name] = value;
  }
  return patch;
}
