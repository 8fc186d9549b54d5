// One call: its input and result, and the ways to make it again.

import { call, get } from "./api.js";
import { parties } from "./calls.js";
import { back, block, button, detailPane, el, failure, fill, inline, note, route, soon } from "./dom.js";
import { dateAndTime, duration, jsonBlock } from "./format.js";
import { loadTrace, waterfall } from "./trace.js";
import { functionRoute } from "./workers.js";

const TRACE_MS = 300;
const TRIES = 20;
const TRY_MS = 100;
const SPANS_SHOWN = 200;
const TONES = { running: "warn", ok: "good", error: "bad" };

/** Shows the call with an id, and again each time that it or its trace changes. */
export class CallDetail {
  #drawn = 0;
  #traceSoon = soon(TRACE_MS, () => this.#loadTrace());

  constructor(calls, id) {
    this.calls = calls;
    this.id = id;
    this.element = detailPane("Call");
    this.load();
  }

  /** Takes notice of a call that began or ended. */
  changed(record) {
    if (record.id === this.id && record.status !== this.record?.status) this.load();
    else if (record.trace_id && record.trace_id === this.record?.trace_id) this.#traceSoon();
  }

  /** Asks for the call. */
  async load() {
    const turn = ++this.#drawn;
    try {
      const record = await get(`calls/${encodeURIComponent(this.id)}`);
      if (turn === this.#drawn) this.#draw(record);
    } catch (error) {
      if (turn !== this.#drawn) return;
      const gone = { message: "The engine has forgotten this call. It keeps the newest ones only." };
      fill(this.element, back(route("calls")), failure(error.status === 404 ? gone : error));
    }
  }

  #draw(record) {
    this.record = record;
    const known = "payload" in record && !record.payload_truncated;
    const why = record.payload_truncated ? "The input was too large to be kept." : "Payloads are not recorded here.";
    this.again = button(null, "Call again with the same input", () => this.#callAgain(), {
      "data-key": "r", disabled: !known, title: known ? null : why,
    });
    this.outcome = el("div", {});
    this.trace = el("div", {});
    fill(this.element,
      back(route("calls")),
      el("h1", {}, record.function_id),
      el("p", { class: "facts" },
        inline(`badge ${TONES[record.status]}`, record.status),
        inline(null, duration(record.duration_ms)),
        parties(record),
        inline("faint", dateAndTime(record.started_at))),
      el("div", { class: "actions" },
        this.again,
        el("a", {
          class: "button", "data-key": "e", href: functionRoute(record.function_id, "default", known && record.id),
        }, known ? "Edit and call" : "Call it")),
      this.outcome,
      record.error && failure(record.error),
      known ? jsonBlock("Input", record.payload) : note(why),
      this.#result(record),
      this.trace);
    this.#loadTrace();
  }

  #result(record) {
    if (record.status !== "ok" || !("result" in record)) return null;
    if (record.result_truncated) return note("The result was too large to be kept.");
    return jsonBlock("Result", record.result);
  }

  async #callAgain() {
    const turn = this.#drawn;
    this.again.disabled = true;
    this.again.textContent = "Calling…";
    try {
      const { trace_id: traceId } = await call(this.record.function_id, this.record.payload);
      const id = await this.#recordOf(traceId);
      if (id && turn === this.#drawn && this.element.isConnected) location.hash = route("calls", id);
    } catch (error) {
      fill(this.outcome, failure(error));
    }
    this.again.disabled = false;
    this.again.textContent = "Call again with the same input";
  }

  /** The id of the record of the call that was made here: it may come a little after the answer. */
  async #recordOf(traceId) {
    for (let tries = 0; tries < TRIES; tries++) {
      const found = this.calls.items.find(({ record }) =>
        record.trace_id === traceId && record.function_id === this.record.function_id && record.caller === "console");
      if (found) return found.key;
      await new Promise((resolve) => setTimeout(resolve, TRY_MS));
    }
    return undefined;
  }

  async #loadTrace() {
    const { trace_id: traceId, span_id: spanId } = this.record;
    if (!traceId) return;
    const place = this.trace;
    const body = await loadTrace(traceId).then((trace) => waterfall(trace, spanId, SPANS_SHOWN), failure);
    fill(place, block("Trace", el("a", { href: route("trace", traceId), "data-key": "t" }, "Open"), body));
  }
}
