// Requests as /openapi.json describes them: which there are, what a field takes, and what is wrong with a value.

const STUDIES = "A study of the representation";
const NETWORKS = "Networks and data sets";
const NO_STUDY = ["training", "evaluation", "activating_images"];
const PAPER = "The paper's figures and tables";

const shown = new Intl.NumberFormat("en", { maximumSignificantDigits: 15 });
const sentence = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

/** A field's name as words; short ones are symbols and stay as they are. */
export const words = (name) => (name.length > 3 ? sentence(name.replaceAll("_", " ")) : name.replaceAll("_", " "));

export class Schemas {
  /** @param openapi the document, @param recipes what GET /v1/recipes answers */
  constructor(openapi, recipes) {
    this.components = openapi.components.schemas;
    this.kinds = new Map();
    const { mapping } = openapi.paths["/v1/jobs"].post.requestBody.content["application/json"].schema.discriminator;
    for (const [kind, $ref] of Object.entries(mapping)) {
      const group = NO_STUDY.includes(kind) ? NETWORKS : STUDIES;
      this.add(kind, { group, address: "/v1/jobs", label: words(kind), schema: this.plain({ $ref }) });
    }
    for (const { name, title, request } of recipes) {
      const schema = this.plain({ $ref: `#/components/schemas/${request}` });
      this.add(name, {
        group: PAPER,
        address: `/v1/recipes/${name}`,
        label: `${sentence(name.replace("-", " "))}: ${title}`,
        schema,
      });
    }
  }

  add(id, kind) {
    this.kinds.set(id, { id, ...kind });
  }

  /** A schema without its reference, and without null among what it may be, which `nullable` says then. */
  plain({ $ref, anyOf, ...own }) {
    if ($ref) return this.plain({ ...this.components[$ref.split("/").at(-1)], ...own });
    if (!anyOf) return own;
    const [only] = anyOf.filter(({ type }) => type !== "null");
    return { ...this.plain(only), ...own, nullable: true };
  }

  /** The schema of a source of images, by what `source` says. */
  variants({ discriminator }) {
    return Object.fromEntries(Object.entries(discriminator.mapping).map(([tag, $ref]) => [tag, this.plain({ $ref })]));
  }

  /** Whether a field takes a source of images. */
  isSource = (schema) => this.plain(schema).discriminator?.propertyName === "source";

  /** What is wrong with a value, as {field, message} with dotted paths; nothing where all is well. */
  errors(schema, value, field = "") {
    const plain = this.plain(schema);
    if (value === null && plain.nullable) return [];
    if (plain.discriminator) return this.ofVariant(plain, value, field);
    if (value === undefined) return [{ field, message: "is missing" }];
    const type = plain.const === undefined ? (plain.enum ? "choice" : plain.type) : "constant";
    const message = CHECKS[type]?.(value, plain);
    if (message) return [{ field, message }];
    if (type === "object") return this.ofObject(plain, value, field);
    return type === "array" ? value.flatMap((each, i) => this.errors(plain.items, each, join(field, i))) : [];
  }

  ofVariant(plain, value, field) {
    const name = plain.discriminator.propertyName;
    const $ref = plain.discriminator.mapping[value?.[name]];
    if ($ref) return this.errors({ $ref }, value, field);
    const allowed = Object.keys(plain.discriminator.mapping).join(", ");
    return [{ field: value ? join(field, name) : field, message: `is missing or unknown; allowed: ${allowed}` }];
  }

  ofObject({ properties, required = [], additionalProperties, patternProperties }, value, field) {
    const missing = required.filter((name) => value[name] === undefined);
    const found = missing.map((name) => ({ field: join(field, name), message: "is missing" }));
    for (const [name, each] of Object.entries(value)) {
      const path = join(field, name);
      if (properties?.[name]) found.push(...this.errors(properties[name], each, path));
      else if (patternProperties) found.push(...this.ofPattern(patternProperties, name, each, path));
      else if (additionalProperties === false) found.push({ field: path, message: "is unknown" });
    }
    return found;
  }

  ofPattern(patternProperties, name, value, field) {
    const [[pattern, schema]] = Object.entries(patternProperties);
    if (new RegExp(pattern).test(name)) return this.errors(schema, value, field);
    return [{ field, message: `has a name that is not allowed; allowed: ${pattern}` }];
  }
}

const join = (field, name) => (field ? `${field}.${name}` : String(name));
const long = (value, { minLength = 0, maxLength = Infinity }) =>
  [...value].length < minLength
    ? "is missing"
    : [...value].length > maxLength && `is ${[...value].length} characters long; allowed: ${maxLength}`;

function numeric(value, { minimum: min, maximum: max, exclusiveMinimum: over, exclusiveMaximum: under }) {
  const bounds = [
    [min === undefined || value >= min, `at least ${shown.format(min)}`],
    [max === undefined || value <= max, `at most ${shown.format(max)}`],
    [over === undefined || value > over, `more than ${shown.format(over)}`],
    [under === undefined || value < under, `less than ${shown.format(under)}`],
  ];
  const broken = bounds.filter(([holds]) => !holds).map(([, text]) => text);
  return broken.length > 0 && `is ${shown.format(value)}; allowed: ${broken.join(", ")}`;
}

/** By type: what is wrong with a value by itself, or nothing. */
const CHECKS = {
  constant: (value, plain) => value !== plain.const && `allowed: ${plain.const}`,
  choice: (value, plain) => !plain.enum.includes(value) && `is ${value}; allowed: ${plain.enum.join(", ")}`,
  boolean: (value) => typeof value !== "boolean" && "allowed: true or false",
  number: (value, plain) => (Number.isFinite(value) ? numeric(value, plain) : `is ${value}; allowed: a number`),
  integer: (value, plain) =>
    Number.isSafeInteger(value) ? numeric(value, plain) : `is ${value}; allowed: a whole number, under 2^53 here`,
  string(value, plain) {
    if (typeof value !== "string") return "allowed: text";
    if (plain.format === "date-time" && Number.isNaN(Date.parse(value))) return "allowed: a time with its zone";
    return (
      long(value, plain) || (plain.pattern && !new RegExp(plain.pattern).test(value) && `allowed: ${plain.pattern}`)
    );
  },
  array(value, { minItems = 0, maxItems = Infinity }) {
    if (!Array.isArray(value)) return "allowed: a list";
    if (value.length < minItems) return minItems === 1 ? "is empty" : `allowed: at least ${minItems}`;
    return value.length > maxItems && `has ${shown.format(value.length)}; allowed: ${shown.format(maxItems)}`;
  },
  object: (value) => (value === null || typeof value !== "object" || Array.isArray(value)) && "allowed: an object",
};
