// What a form needs to know of a JSON Schema.

const MAX_STEPS = 32;

const FORMATS = {
  __proto__: null, // a schema may name any format
  date: [/^\d{4}-\d\d-\d\d$/, "2026-01-31"],
  time: [/^\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?$/i, "14:30:00"],
  "date-time": [/^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?$/i, "2026-01-31T14:30:00Z"],
  email: [/^[^@\s]+@[^@\s]+$/, "name@example.com"],
  uri: [/^[a-z][a-z\d+.-]*:\S+$/i, "https://example.com"],
  uuid: [/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i, "00000000-0000-0000-0000-000000000000"],
};

/** Returns `{schema, nullable}`: what is left once references and alternatives with null are followed; if null may be. */
export function resolved(schema, root) {
  let found = schema;
  let nullable = false;
  for (let step = 0; step < MAX_STEPS; step++) {
    if (typeof found !== "object" || found === null || Array.isArray(found)) return { schema: {}, nullable: false };
    const { $ref, allOf, anyOf, oneOf, ...own } = found;
    const options = allOf ?? anyOf ?? oneOf;
    if (typeof $ref === "string") {
      found = { ...pointed(root, $ref), ...own };
    } else if (Array.isArray(options)) {
      const others = options.filter((option) => option?.type !== "null");
      if (others.length !== 1) break;
      nullable ||= others.length < options.length;
      found = { ...others[0], ...own };
    } else if (Array.isArray(found.type)) {
      const types = found.type.filter((type) => type !== "null");
      nullable ||= types.length < found.type.length;
      if (types.length === 1) found = { ...found, type: types[0] };
      break;
    } else break;
  }
  return { schema: found, nullable };
}

function pointed(root, reference) {
  if (!reference.startsWith("#")) return {};
  let place = root;
  for (const part of reference.slice(1).split("/").slice(1)) {
    const key = part.replaceAll("~1", "/").replaceAll("~0", "~");
    if (typeof place !== "object" || place === null || !Object.hasOwn(place, key)) return {};
    place = place[key];
  }
  return typeof place === "object" && place !== null ? place : {};
}

/** Which control a resolved schema gets; `json` is a text area for whatever has no better one. */
export function kindOf(schema) {
  if ("const" in schema) return "const";
  if (Array.isArray(schema.enum)) return "enum";
  const type = schema.type ?? (schema.properties ? "object" : undefined);
  if (["string", "boolean", "integer", "number"].includes(type)) return type;
  const plain = !["anyOf", "oneOf", "allOf", "if", "patternProperties"].some((key) => key in schema);
  if (type === "object" && plain && schema.properties) return "object";
  if (type === "array" && typeof schema.items === "object" && !schema.prefixItems) return "array";
  return "json";
}

/** What is wrong with a value by its resolved schema, in a sentence; empty when nothing is. */
export function problem(schema, value) {
  const kind = kindOf(schema);
  if (kind === "string") return textProblem(schema, value);
  if (kind === "integer" || kind === "number") return numberProblem(schema, kind, value);
  if (kind === "array") return arrayProblem(schema, value);
  return "";
}

function textProblem(schema, text) {
  const length = [...text].length;
  if (length < schema.minLength) return `Shorter than ${schema.minLength}.`;
  if (length > schema.maxLength) return `Longer than ${schema.maxLength}, by ${length - schema.maxLength}.`;
  if (schema.pattern && !matches(schema.pattern, text)) return `Must match ${schema.pattern}`;
  const format = FORMATS[schema.format];
  return format && !format[0].test(text) ? `Not a ${schema.format}; one is ${format[1]}` : "";
}

function matches(pattern, text) {
  try {
    return new RegExp(pattern, "u").test(text);
  } catch {
    return true; // written for another language's expressions; the function itself will tell
  }
}

function numberProblem(schema, kind, value) {
  if (typeof value !== "number") return "Not a number.";
  if (kind === "integer" && !Number.isInteger(value)) return "Not a whole number.";
  if (kind === "integer" && !Number.isSafeInteger(value)) return "Too large to be exact in a browser.";
  if (value < schema.minimum) return `At least ${schema.minimum}.`;
  if (value > schema.maximum) return `At most ${schema.maximum}.`;
  if (value <= schema.exclusiveMinimum) return `More than ${schema.exclusiveMinimum}.`;
  if (value >= schema.exclusiveMaximum) return `Less than ${schema.exclusiveMaximum}.`;
  const parts = value / schema.multipleOf;
  return Math.abs(parts - Math.round(parts)) > 1e-9 ? `Not a multiple of ${schema.multipleOf}.` : "";
}

function arrayProblem(schema, items) {
  if (items.length < schema.minItems) return `At least ${schema.minItems}.`;
  if (items.length > schema.maxItems) return `At most ${schema.maxItems}.`;
  const different = new Set(items.map((item) => JSON.stringify(item))).size;
  return schema.uniqueItems && different < items.length ? "Two are the same." : "";
}

/** The type and bounds of a resolved schema in a few words. */
export function hint(schema, nullable) {
  const kind = kindOf(schema);
  const type = kind === "json" ? [schema.type ?? "any"].flat().join(" or ") : ["enum", "const"].includes(kind) ? "" : kind;
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  const bounds = low === undefined && high === undefined ? "" : `${low ?? "…"} to ${high ?? "…"}`;
  return [schema.format ?? type, bounds, nullable && "or null"].filter(Boolean).join(", ");
}

/** An example of a string's format; undefined when it has none that is known. */
export function example(schema) {
  return FORMATS[schema.format]?.[1];
}
