// A form made from a JSON Schema.
//
// Every field has `element`, `read()` (its value; undefined: left out), `write(value)` (undefined: emptied; throws Misfit
// when it cannot show the value) and `check()` (shows what is wrong; returns the first control with a problem, if any).

import { button, el, fill, inline, note } from "./dom.js";
import { example, hint, kindOf, problem, resolved } from "./schema.js";

const DEEPEST = 8;
let lastId = 0;

/** A value that a field has no way to show. */
export class Misfit extends Error {}

/** The form of a whole request: a field without a name. */
export function formOf(schema, label) {
  return fieldOf({ root: schema, depth: 0, name: "", label, required: true }, schema);
}

function fieldOf(place, schema) {
  const { schema: own, nullable } = resolved(schema, place.root);
  const kind = place.depth > DEEPEST ? "json" : kindOf(own);
  const field = new (KINDS[kind] ?? JsonField)({ ...place, schema: own, nullable });
  try {
    if (own.default !== undefined && own.default !== null) field.write(own.default);
  } catch (error) {
    if (!(error instanceof Misfit)) throw error; // the default is not of the field's type
  }
  return field;
}

class Field {
  constructor(spec) {
    this.spec = spec;
    this.id = `field-${++lastId}`;
    this.message = el("p", { class: "message", id: `${this.id}-message` });
  }

  /** Makes the element: the control with its name, description and message. */
  frame(...content) {
    const { name, label, schema, nullable } = this.spec;
    this.element = el("div", { class: "field", "data-field": label },
      name && el("div", { class: "label" },
        el("label", { for: this.id }, name), this.star, inline("faint", hint(schema, nullable))),
      this.description, content, this.message);
  }

  get star() {
    return this.spec.required && el("span", { class: "required", title: "required" }, " *");
  }

  get description() {
    const text = this.spec.name && this.spec.schema.description;
    return text && el("p", { class: "description", id: `${this.id}-about` }, text);
  }

  /** Attributes of the control that tell what it is for. */
  get named() {
    const { label, required } = this.spec;
    const about = `${this.id}-about ${this.id}-message`;
    return { id: this.id, "aria-label": label, "aria-describedby": about, "aria-required": required && "true" };
  }

  /** Shows what is wrong, if anything; then it returns the control. */
  tell(text) {
    this.message.textContent = text;
    if (text) this.control.setAttribute("aria-invalid", "true");
    else this.control.removeAttribute("aria-invalid");
    return text ? this.control : null;
  }

  misfit(wanted) {
    throw new Misfit(`${this.spec.label}: the form has a field for ${wanted} there`);
  }
}

/** A control that holds text. An empty one leaves the value out, unless it was given `""` or null. */
class TextField extends Field {
  #blank;

  constructor(spec) {
    super(spec);
    this.control = this.make({ ...this.named, placeholder: this.placeholder, spellcheck: "false", autocomplete: "off" });
    this.control.addEventListener("input", () => {
      this.#blank = undefined;
      this.control.placeholder = this.placeholder;
      if (this.message.textContent) this.check();
    });
    this.frame(this.control);
  }

  get placeholder() {
    return example(this.spec.schema) ?? "";
  }

  make(attributes) {
    const { format } = this.spec.schema;
    if (!format) return el("textarea", { rows: "1", ...attributes });
    return el("input", { type: format === "password" ? format : "text", ...attributes });
  }

  read() {
    if (this.control.value !== "") return this.parse(this.control.value);
    return this.#blank === undefined && this.spec.required && this.spec.nullable ? null : this.#blank;
  }

  write(value) {
    if (value === null && !this.spec.nullable) this.misfit(this.kind);
    this.#blank = value === "" || value === null ? value : undefined;
    this.control.placeholder = value === "" ? "empty text" : value === null ? "null" : this.placeholder;
    this.control.value = value === undefined || value === null ? "" : this.format(value);
  }

  check() {
    const value = this.read();
    if (value === undefined) return this.tell(this.spec.required ? "Required." : "");
    return this.tell(value === null ? "" : this.problem(value));
  }

  kind = "text";

  parse(text) {
    return text;
  }

  format(value) {
    return typeof value === "string" ? value : this.misfit(this.kind);
  }

  problem(value) {
    return problem(this.spec.schema, value);
  }
}

class NumberField extends TextField {
  kind = "a number";

  make(attributes) {
    return el("input", { inputmode: "decimal", ...attributes });
  }

  parse(text) {
    return /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(text) ? Number(text) : text;
  }

  format(value) {
    return typeof value === "number" ? String(value) : this.misfit(this.kind);
  }
}

/** Any JSON, for schemas that no other field is for. */
class JsonField extends TextField {
  make(attributes) {
    return el("textarea", { rows: "3", class: "code", ...attributes });
  }

  get placeholder() {
    return "JSON";
  }

  parse(text) {
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }

  write(value) {
    this.control.value = value === undefined ? "" : JSON.stringify(value, null, 2);
  }

  problem() {
    try {
      JSON.parse(this.control.value);
      return "";
    } catch (error) {
      return `Not JSON: ${error.message}`;
    }
  }
}

/** One of several values. */
class ChoiceField extends Field {
  constructor(spec, values = [...spec.schema.enum]) {
    super(spec);
    this.values = spec.nullable && !values.includes(null) ? [...values, null] : values;
    const options = this.values.map((value, index) =>
      el("option", { value: String(index) }, typeof value === "string" ? value || '""' : JSON.stringify(value)));
    this.control = el("select", { ...this.named, onchange: () => this.tell("") },
      el("option", { value: "" }, spec.required ? "choose" : "not set"), options);
    this.frame(this.control);
  }

  read() {
    return this.values[this.control.selectedIndex - 1];
  }

  write(value) {
    const texts = this.values.map((each) => JSON.stringify(each));
    const index = texts.indexOf(JSON.stringify(value));
    if (value !== undefined && index < 0) this.misfit(`one of ${texts.join(", ")}`);
    this.control.selectedIndex = index + 1;
  }

  check() {
    return this.tell(this.spec.required && this.read() === undefined ? "Required." : "");
  }
}

class BooleanField extends ChoiceField {
  constructor(spec) {
    super(spec, [true, false]);
  }
}

class ConstField extends ChoiceField {
  constructor(spec) {
    super(spec, [spec.schema.const]);
    if (spec.required) this.write(spec.schema.const);
  }
}

/** Named values. One that may be left out, or null, is so until it is added. What the schema does not name is kept. */
class ObjectField extends Field {
  #more = {};
  #blank;

  constructor(spec) {
    super(spec);
    const { name, label, required, nullable } = spec;
    this.optional = !required || nullable;
    this.body = el("div", {});
    this.switch = button("small", "", () => this.#show(!this.present));
    this.element = el("fieldset", { class: name && "group", "data-field": label, "aria-label": label },
      name && el("legend", {}, name, this.star, " ", this.optional && this.switch), this.description, this.body);
    this.#show(!this.optional);
  }

  #show(present) {
    this.present = present;
    this.#blank = undefined;
    this.#more = {};
    this.switch.textContent = present ? "Leave out" : "Add";
    this.switch.setAttribute("aria-label", `${this.switch.textContent} ${this.spec.label}`);
    this.fields = new Map(present ? this.#fields() : []);
    fill(this.body, [...this.fields.values()].map((field) => field.element));
    if (present && !this.fields.size) fill(this.body, note("It takes no input."));
  }

  #fields() {
    const { schema, root, depth, label, name: own } = this.spec;
    return Object.entries(schema.properties).map(([name, each]) => {
      const required = Boolean(schema.required?.includes(name));
      return [name, fieldOf({ root, depth: depth + 1, name, label: own ? `${label}.${name}` : name, required }, each)];
    });
  }

  read() {
    if (!this.present) return this.#blank === undefined && this.spec.required ? null : this.#blank;
    const known = [...this.fields].map(([name, field]) => [name, field.read()]).filter(([, value]) => value !== undefined);
    return { ...Object.fromEntries(known), ...this.#more };
  }

  write(value) {
    const absent = value === undefined || (value === null && this.spec.nullable);
    if (!absent && (typeof value !== "object" || value === null || Array.isArray(value))) this.misfit("an object");
    this.#show(!absent || !this.optional);
    if (!this.present) this.#blank = value;
    const given = new Map(Object.entries(value ?? {}));
    for (const [name, field] of this.fields) field.write(given.get(name));
    this.#more = Object.fromEntries([...given].filter(([name]) => !this.fields.has(name)));
  }

  check() {
    return [...this.fields.values()].map((field) => field.check()).find(Boolean) ?? null;
  }
}

/** A list of values. One that may be left out is so while it has none, unless it was given as empty. */
class ArrayField extends Field {
  #blank;

  constructor(spec) {
    super(spec);
    this.items = [];
    this.list = el("ol", { class: "items" });
    const add = () => this.#add().element.querySelector("input, textarea, select, button")?.focus();
    this.control = button("small", "Add", add, { ...this.named, "aria-required": null, "aria-label": `Add to ${spec.label}` });
    this.frame(this.list, this.control);
  }

  #add() {
    const { root, depth, schema } = this.spec;
    const label = `${this.spec.label}[${this.items.length}]`;
    const item = fieldOf({ root, depth: depth + 1, name: label, label, required: true }, schema.items);
    const remove = () => this.#remove(item);
    this.items.push(item);
    this.list.append(el("li", {}, item.element,
      button("small", "Remove", remove, { "aria-label": `Remove ${label}` })));
    this.#blank = undefined;
    this.tell("");
    return item;
  }

  #remove(item) {
    this.write(this.items.filter((each) => each !== item).map((each) => each.read()));
    this.control.focus();
  }

  read() {
    if (this.items.length) return this.items.map((item) => item.read() ?? null);
    return this.#blank === undefined && this.spec.required ? [] : this.#blank;
  }

  write(value) {
    const absent = value === undefined || (value === null && this.spec.nullable);
    if (!absent && !Array.isArray(value)) this.misfit("a list");
    this.items = [];
    fill(this.list);
    for (const each of value ?? []) this.#add().write(each);
    if (!this.items.length) this.#blank = value;
  }

  check() {
    const first = this.items.map((item) => item.check()).find(Boolean);
    const value = this.read();
    return first ?? this.tell(Array.isArray(value) ? problem(this.spec.schema, value) : "");
  }
}

const KINDS = {
  string: TextField, number: NumberField, integer: NumberField, boolean: BooleanField, enum: ChoiceField,
  const: ConstField, object: ObjectField, array: ArrayField,
};
