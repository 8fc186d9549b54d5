// Calls as they happen.

import { get } from "./api.js";
import { el, fill, inline, mark, route, rowLink } from "./dom.js";
import { duration, timeOfDay } from "./format.js";
import { LiveList, Records } from "./live_list.js";

const LIMIT = 500;

/** The newest calls, by id. */
export class Calls extends Records {
  constructor() {
    super(LIMIT);
  }

  /** Adds a call that began or ended. */
  add(record) {
    if (record.status === "running" && this.#ended(record.id)) return; // told late
    this.put(record.id, record);
  }

  /** Asks for what the engine has recorded. */
  async refresh() {
    const { calls } = await get(`calls?limit=${LIMIT}`);
    const newer = this.items.filter(({ key }) => this.#ended(key)).map(({ key, record }) => [key, record]);
    const all = new Map([...calls.map((record) => [record.id, record]), ...newer]);
    this.replace([...all].sort(([, a], [, b]) => b.started_at - a.started_at));
  }

  #ended(id) {
    return (this.byKey.get(id)?.status ?? "running") !== "running";
  }
}

/** The list of calls; each is a row that opens it. */
export class CallsList extends LiveList {
  constructor(calls) {
    super(calls, {
      name: "Calls",
      empty: "No calls yet. They appear here as they happen.",
      textOf: ({ function_id: id, caller, worker, status, error, trace_id: trace }) =>
        [id, caller, worker, status, error?.code, error?.message, trace].join(" "),
      fillRow: (item, record) => this.#fill(item, record),
      isEngines: (record) => record.function_id.startsWith("engine::"),
    });
  }

  /** Marks the row of an open call. */
  mark(id) {
    this.current = id && route("calls", id);
    mark(this.list, this.current);
  }

  #fill(item, record) {
    if (!item.firstElementChild) {
      item.append(rowLink("call", route("calls", record.id)));
      mark(item, this.current);
    }
    item.firstElementChild.dataset.status = record.status;
    fill(item.firstElementChild,
      el("span", { class: "dot", role: "img", "aria-label": record.status }),
      inline("name cut", record.function_id),
      parties(record),
      inline("status", record.error?.code ?? ""),
      inline("duration", duration(record.duration_ms)),
      el("time", { class: "faint" }, timeOfDay(record.started_at)));
  }
}

/** Who called whom. */
export function parties({ caller, worker, status }) {
  return inline("parties faint cut",
    caller, el("span", { "aria-label": "to" }, " → "), worker ?? (status === "error" ? "nobody" : "…"));
}
