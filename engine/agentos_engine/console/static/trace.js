// A trace as a waterfall.

import { ask } from "./api.js";
import {
  back, block, copyButton, detailPane, el, failure, fill, inline, listPane, note, route, rowLink, soon,
} from "./dom.js";
import { count, dateAndTime, duration, MILLION, pairs } from "./format.js";
import { keepFocus, oneStop } from "./keyboard.js";

const LIMIT = 2000;
const DEEPEST = 12;
const REFRESH_MS = 300;

/**
 * Returns a trace: `{id, spans, start, end, workers, errors}`. Spans come in the order of the tree, with `depth` and the
 * `worker` that answered; times are nanoseconds since 1970. One that has not ended ends with the trace, and is `open`.
 */
export async function loadTrace(id) {
  const { roots } = await ask("engine::traces::tree", { trace_id: id });
  const spans = [];
  const waiting = roots.map((span) => [span, 0]).reverse();
  while (waiting.length) {
    const [span, depth] = waiting.pop();
    const start = span.start_time_unix_nano;
    const open = span.end_time_unix_nano < start;
    const worker = span.attributes.find(([name]) => name === "worker")?.[1] ?? span.service_name;
    spans.push({ ...span, worker, start, end: open ? start : span.end_time_unix_nano, open, depth });
    for (const child of (span.children ?? []).toReversed()) waiting.push([child, depth + 1]);
  }
  const start = spans.reduce((least, span) => Math.min(least, span.start), Infinity);
  const end = spans.reduce((most, span) => Math.max(most, span.end), 0);
  for (const span of spans) if (span.open) span.end = end;
  return {
    id, spans, start, end,
    workers: [...new Set(spans.map((span) => span.worker))],
    errors: spans.filter((span) => span.status === "error").length,
  };
}

/** The spans, at most `limit`, as rows with bars, scaled to the trace. `current` is the id of the one that stands out. */
export function waterfall(trace, current, limit) {
  if (!trace.spans.length) return note("No spans of this trace are kept.");
  const whole = Math.max(trace.end - trace.start, 1);
  const list = el("ol", { class: "spans", "data-rows": true, "aria-label": "Spans" });
  for (const span of trace.spans.slice(0, limit)) list.append(spanRow(trace, span, whole, span.span_id === current));
  oneStop(list);
  const more = trace.spans.length - limit;
  return el("div", { class: "waterfall" }, axis(whole), list,
    more > 0 && note(`${count(more, "more span")} not shown.`));
}

function spanRow(trace, span, whole, isCurrent) {
  const failed = span.status === "error";
  const bar = inline(`bar${failed ? " bad" : ""}${span.open ? " open" : ""}`);
  const from = (span.start - trace.start) / whole;
  const to = (span.end - trace.start) / whole;
  bar.style.left = `${from * 100}%`;
  bar.style.width = `${(to - from) * 100}%`;
  const text = lengthOf(span);
  const length = inline("length", text);
  // Beside the bar where there is room: after it, else before it, else in it.
  if (to < 0.8) length.style.left = `${to * 100}%`;
  else if (from > 0.2) length.style.right = `${(1 - from) * 100}%`;
  else bar.append(length);
  const name = inline("span-name",
    inline("cut name", span.name),
    inline("cut faint", span.worker, failed && el("b", { class: "bad" }, " error")));
  name.style.paddingInlineStart = `${Math.min(span.depth, DEEPEST)}em`;
  return el("li", {},
    rowLink("span", route("trace", trace.id, { span: span.span_id }), {
      "aria-current": isCurrent && "true", "aria-label": `${span.name}, ${span.worker}, ${text}${failed ? ", error" : ""}`,
    }, name, inline("track", bar, !length.parentElement && length)));
}

function lengthOf({ open, start, end }) {
  return duration(open ? null : (end - start) / MILLION);
}

function axis(whole) {
  const ticks = inline("ticks");
  for (const part of [0, 0.25, 0.5, 0.75]) {
    const tick = inline(null, part ? duration((whole * part) / MILLION) : "0");
    tick.style.left = `${part * 100}%`;
    ticks.append(tick);
  }
  return el("div", { class: "axis faint", "aria-hidden": "true" }, el("span"), ticks);
}

/** Shows one whole trace, and the span that is chosen. */
export class TraceView {
  #soon = soon(REFRESH_MS, () => this.load());

  constructor(id, spanId) {
    this.id = id;
    this.spanId = spanId;
    this.element = el("div", { class: "trace" });
    this.load();
  }

  /** Takes notice of a call that began or ended. */
  changed(record) {
    if (record.trace_id === this.id) this.#soon();
  }

  /** Chooses a span, or none. */
  choose(spanId) {
    this.spanId = spanId;
    if (this.trace) this.#draw();
  }

  /** Asks for the trace. */
  async load() {
    try {
      this.trace = await loadTrace(this.id);
      this.#draw();
    } catch (error) {
      fill(this.element, this.#head(), failure(error));
    }
  }

  #draw() {
    const { trace, spanId, element } = this;
    const scrolled = element.querySelector(".scroll")?.scrollTop ?? 0;
    const chosen = trace.spans.find((span) => span.span_id === spanId);
    const list = listPane("Waterfall", null, waterfall(trace, spanId, LIMIT));
    const beside = chosen && detailPane("Span");
    if (chosen) fill(beside, spanFacts(trace, chosen));
    keepFocus(element, () =>
      fill(element, this.#head(trace), el("div", { class: chosen ? "panes open" : "panes" }, list, beside)));
    element.querySelector(".scroll").scrollTop = scrolled;
  }

  #head(trace) {
    return el("div", { class: "trace-head" },
      el("h1", {}, trace?.spans[0]?.name || "Trace"),
      el("p", { class: "facts" },
        ...(trace?.spans.length ? [
          inline(null, duration((trace.end - trace.start) / MILLION)),
          inline(null, count(trace.spans.length, "span")),
          trace.errors > 0 && inline("bad", count(trace.errors, "error")),
          inline("faint", trace.workers.join(", ")),
          inline("faint", dateAndTime(trace.start / MILLION)),
        ] : []),
        el("code", { class: "faint cut" }, this.id), copyButton("trace id", this.id)));
  }
}

function spanFacts(trace, span) {
  const facts = [
    ["service", span.service_name],
    ["status", [span.status, span.status_description].filter(Boolean).join(": ")],
    ["begins at", `+${duration((span.start - trace.start) / MILLION)}`],
    ["takes", lengthOf(span)],
    ["span id", span.span_id],
    ["scope", span.instrumentation_scope_name],
  ].filter(([, value]) => value);
  return [
    back(route("trace", trace.id)),
    el("h2", {}, span.name),
    pairs(facts),
    span.attributes.length > 0 && block("Attributes", null, pairs(span.attributes)),
    ...span.events.map(({ name, timestamp_unix_nano: at, attributes }) =>
      block(`${name} at +${duration((at - trace.start) / MILLION)}`, null, pairs(attributes))),
  ];
}
