// The newest log entries.

import { ask } from "./api.js";
import { el, fill, inline, route } from "./dom.js";
import { dateAndTime, MILLION, pairs, timeOfDay } from "./format.js";
import { LiveList, Records } from "./live_list.js";

const LIMIT = 1000;
const ERROR = 17;
const WARNING = 13;

/** The newest entries, as `engine::logs::list` has them. */
export class Logs extends Records {
  #last = 0;

  constructor() {
    super(LIMIT);
  }

  /** Adds an entry. */
  add(entry) {
    this.put(++this.#last, entry);
  }

  /** Asks for what the engine has kept. */
  async refresh() {
    let found = [];
    this.error = undefined;
    try {
      found = (await ask("engine::logs::list", { sort_order: "desc", limit: LIMIT })).logs;
    } catch (error) {
      if (error.status === 0) throw error;
      this.error = error; // this engine keeps none
    }
    this.#last += found.length;
    this.replace(found.map((entry, index) => [this.#last - index, entry]));
  }
}

/** The list of entries; each opens to show all that it has. */
export class LogsList extends LiveList {
  constructor(logs) {
    super(logs, {
      name: "Logs",
      empty: "Nothing was logged yet.",
      textOf: ({ severity_text: level, service_name: service, body, attributes, trace_id: trace }) =>
        [level, service, body, JSON.stringify(attributes), trace].join(" "),
      fillRow,
    });
  }
}

function fillRow(item, entry) {
  const severity = entry.severity_number;
  const tone = severity >= ERROR ? "bad" : severity >= WARNING ? "warn" : "";
  const details = el("details", {},
    el("summary", { class: "row log", "data-row": true, tabindex: "-1" },
      el("time", { class: "faint" }, timeOfDay(entry.timestamp_unix_nano / MILLION)),
      inline(`level ${tone}`, entry.severity_text.toLowerCase()),
      inline("faint cut", entry.service_name),
      inline(`body cut ${tone}`, entry.body)));
  details.addEventListener("toggle", () => details.append(facts(entry)), { once: true });
  fill(item, details);
}

function facts(entry) {
  const attributes = Object.entries(entry.attributes ?? {});
  return el("div", { class: "log-facts" },
    el("p", {}, entry.body),
    pairs([["time", dateAndTime(entry.timestamp_unix_nano / MILLION)], ...attributes]),
    entry.trace_id && el("a", { href: route("trace", entry.trace_id, { span: entry.span_id }) }, "Open its trace"));
}
