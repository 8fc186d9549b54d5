// One function: what it is, and a form to call it.

import { ask, call, get } from "./api.js";
import { back, button, detailPane, el, failure, fill, inline, route } from "./dom.js";
import { formOf, Misfit } from "./form.js";
import { duration, jsonBlock } from "./format.js";

const TIMEOUT_SECONDS = 30;
const MOST_SECONDS = 3600;

/** Shows a function. `from` is the id of a call whose input the form begins with; `focus` puts the focus into the form. */
export class FunctionDetail {
  constructor(id, { namespace, from, focus }) {
    this.id = id;
    this.namespace = namespace;
    this.element = detailPane("Function");
    this.from = from;
    this.load(focus);
  }

  /** Asks for the function, unless it is there already: what was filled in stays. */
  async load(focus) {
    if (this.button) return;
    const { from } = this;
    try {
      const [info, record] = await Promise.all([
        ask("engine::functions::info", { function_id: this.id, namespace: this.namespace }),
        from && get(`calls/${encodeURIComponent(from)}`).catch(() => null),
      ]);
      this.#draw(info);
      if (record && "payload" in record && !record.payload_truncated) this.#fillIn(record.payload, Boolean(this.form));
      if (focus) (this.place.querySelector("input, textarea, select, button.small") ?? this.button).focus();
    } catch (error) {
      fill(this.element, back(route("workers")), el("h1", {}, this.id), failure(error));
    }
  }

  #draw(info) {
    const schema = info.request_schema;
    const isForm = typeof schema === "object" && schema !== null;
    this.form = isForm ? formOf(schema, "Input") : undefined;
    this.raw = formOf({}, "Input as JSON");
    this.raw.write({});
    this.place = el("div", { class: "input" });
    this.outcome = el("div", { class: "outcome", role: "status" });
    this.button = el("button", { type: "submit", class: "primary" }, "Call");
    const seconds = { min: "0.1", max: MOST_SECONDS, step: "any", value: TIMEOUT_SECONDS };
    this.timeout = el("input", { type: "number", required: true, ...seconds });
    this.modes = el("div", { class: "modes", role: "group", "aria-label": "Input as" },
      ...["Form", "JSON"].map((mode) => button("toggle", mode, () => this.#switch(mode === "Form"))));
    this.modes.hidden = !isForm;
    fill(this.element,
      back(route("workers")),
      el("h1", {}, info.function_id),
      el("p", { class: "facts" }, inline(null, info.worker_name),
        info.namespace !== "default" && inline("chip", info.namespace),
        ...(info.registered_triggers ?? []).map(triggerChip)),
      info.description && el("p", {}, info.description),
      el("form", {
        novalidate: true, onsubmit: (event) => this.#submit(event), onkeydown: (event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#submit(event);
        },
      },
        el("div", { class: "block-head" }, el("h3", {}, "Input"), this.modes),
        this.place,
        el("div", { class: "actions" }, this.button,
          el("label", { class: "faint timeout" }, "give up after ", this.timeout, " s"),
          inline("faint keys", el("kbd", {}, "Ctrl"), " ", el("kbd", {}, "Enter")))),
      this.outcome);
    this.#show(isForm);
  }

  /** Shows the form or the JSON. */
  #show(asForm) {
    this.asForm = asForm;
    fill(this.place, this.#field.element);
    [...this.modes.children].forEach((mode, at) => mode.setAttribute("aria-pressed", String((at === 0) === asForm)));
  }

  /** Goes to the form or the JSON, with the value. */
  #switch(asForm) {
    if (asForm === this.asForm) return;
    if (asForm && this.#isWrong()) return;
    this.#fillIn((asForm ? this.raw : this.form).read(), asForm);
  }

  /** Shows an input. What the form has no way to show stays JSON. */
  #fillIn(payload, asForm) {
    this.raw.write(payload ?? null);
    this.raw.tell("");
    this.#show(false);
    if (!asForm) return;
    try {
      this.form.write(payload);
      this.#show(true);
    } catch (error) {
      if (!(error instanceof Misfit)) throw error;
      this.raw.tell(`This has to stay JSON. ${error.message}.`);
    }
  }

  async #submit(event) {
    event.preventDefault();
    if (this.button.disabled || this.#isWrong() || !this.timeout.reportValidity()) return;
    this.button.disabled = true;
    this.button.textContent = "Calling…";
    fill(this.outcome);
    try {
      const timeoutMs = Math.round(Number(this.timeout.value) * 1000);
      this.#answered(await call(this.id, this.#field.read(), { timeoutMs, namespace: this.namespace }));
    } catch (error) {
      fill(this.outcome, failure(error));
    }
    this.button.disabled = false;
    this.button.textContent = "Call";
  }

  get #field() {
    return this.asForm ? this.form : this.raw;
  }

  /** Whether something is wrong with the input; it is shown. */
  #isWrong() {
    const control = this.#field.check();
    control?.focus();
    return Boolean(control);
  }

  #answered({ result, error, duration_ms: took, trace_id: traceId }) {
    fill(this.outcome,
      el("p", { class: "facts" },
        inline(`badge ${error ? "bad" : "good"}`, error ? "error" : "ok"),
        inline(null, duration(took)),
        traceId && el("a", { href: route("trace", traceId), "data-key": "t" }, "Trace")),
      error ? failure(error) : jsonBlock("Result", result ?? null));
  }
}

function triggerChip({ trigger_type: type, config }) {
  const { http_method: method, api_path: path, expression, topic } = config ?? {};
  return inline("chip", [type, method, path ?? expression ?? topic].filter(Boolean).join(" "));
}
