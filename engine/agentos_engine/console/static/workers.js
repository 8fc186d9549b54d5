// Workers and their functions: what runs, what waits or fails, and why.

import { ask, get } from "./api.js";
import { el, engineToggle, failure, fill, filterField, inline, listPane, mark, route, rowLink, soon } from "./dom.js";
import { count } from "./format.js";
import { keepFocus, oneStop } from "./keyboard.js";

const ENGINE = "engine";
const FLEET_MS = 2000;
const REFRESH_MS = 150;

/**
 * The workers: `{name, state, reason, message, restarts, instances, about, functions}`, functions as
 * `engine::functions::list` has them. Tells by `change`.
 */
export class Workers extends EventTarget {
  #refreshing = false;
  #text;

  constructor() {
    super();
    this.all = [];
    this.supervised = false;
    // What `agentos up` starts and waits for is not on the bus, so no event tells of it.
    setInterval(() => this.supervised && !document.hidden && this.refreshSoon(), FLEET_MS);
  }

  /** Asks anew, once for many changes at a time. */
  refreshSoon = soon(REFRESH_MS, () => this.refresh());

  /** Asks anew. */
  async refresh() {
    if (this.#refreshing) return this.refreshSoon();
    this.#refreshing = true;
    this.error = undefined;
    try {
      const fleet = this.supervised ? get("fleet") : { workers: [] };
      const lists = [fleet, ask("engine::workers::list"), ask("engine::functions::list")];
      const [{ workers: supervised }, { workers }, { functions }] = await Promise.all(lists);
      this.all = merged(supervised, workers, functions);
    } catch (error) {
      this.error = error;
    }
    this.#refreshing = false;
    const text = JSON.stringify([this.all, this.error?.message]);
    if (text !== this.#text) this.dispatchEvent(new CustomEvent("change"));
    this.#text = text;
  }
}

/** One entry for each name, of what is supervised, connected and registered; the engine comes last. */
function merged(fleet, connected, functions) {
  const workers = new Map();
  const named = (name) => {
    if (!workers.has(name)) workers.set(name, { name, state: "", restarts: 0, instances: 0, functions: [] });
    return workers.get(name);
  };
  for (const { name, state, reason, message, restarts } of fleet) {
    Object.assign(named(name), { state, reason, message, restarts });
  }
  for (const { name, status, internal, runtime, version } of connected) {
    if (internal) continue;
    const worker = named(name);
    worker.instances += 1;
    worker.state ||= status === "available" ? "Ready" : status[0].toUpperCase() + status.slice(1);
    worker.about = [runtime, version].filter(Boolean).join(" ");
  }
  for (const { function_id: id, namespace, worker_name: name, description } of functions) {
    const known = named(name).functions;
    const isKnown = known.some((other) => other.id === id && other.namespace === namespace);
    if (!isKnown) known.push({ id, namespace, description });
  }
  const isFirst = (a, b) => (a === ENGINE) === (b === ENGINE) ? a < b : b === ENGINE;
  return [...workers.values()].sort((a, b) => (isFirst(a.name, b.name) ? -1 : 1));
}

/** The list of workers with their functions; each function is a row that opens it. */
export class WorkersList {
  #words = [];
  #engine = false;
  #current;

  constructor(workers) {
    this.workers = workers;
    this.list = el("ul", { "data-rows": true, "aria-label": "Workers and their functions" });
    this.note = el("div", { class: "empty" });
    const filter = filterField("Filter workers and functions", (words) => this.#draw((this.#words = words)));
    const engine = engineToggle((on) => this.#draw((this.#engine = on)));
    this.element = listPane("Workers", [filter, engine], this.list, this.note);
    workers.addEventListener("change", () => this.#draw());
  }

  /** Marks the row of an open function. */
  mark(address) {
    this.#current = address;
    mark(this.list, address);
  }

  #draw() {
    const shown = this.workers.all.filter(({ name }) => this.#engine || name !== ENGINE);
    keepFocus(this.list, () => fill(this.list, shown.map((worker) => this.#item(worker))));
    oneStop(this.list);
    mark(this.list, this.#current);
    this.note.hidden = this.list.children.length > 0 && !this.workers.error;
    fill(this.note, this.workers.error ? failure(this.workers.error)
      : this.#words.length ? "Nothing matches." : "No worker is connected yet.");
  }

  #item({ name, state, reason, message, restarts, instances, about, functions }) {
    const found = (...texts) => this.#words.every((word) => texts.join(" ").toLowerCase().includes(word));
    const rows = functions.filter(({ id, description }) => found(name, state, id, description));
    if (!rows.length && !found(name, state)) return null;
    return el("li", { class: "worker" },
      el("div", { class: "worker-head" },
        el("h2", {}, name),
        name !== ENGINE && inline(`badge ${tone(state)}`, state),
        instances > 1 && inline("faint", count(instances, "instance")),
        restarts > 0 && inline("faint", count(restarts, "restart")),
        inline("faint runtime", about)),
      (reason || message) && el("p", { class: `why ${tone(state)}` }, el("b", {}, reason), " ", message),
      el("ul", {}, rows.map(functionRow)));
  }
}

function functionRow({ id, namespace, description }) {
  return el("li", {}, rowLink("", functionRoute(id, namespace), null,
    inline("name", id, namespace !== "default" && inline("chip", namespace)),
    inline("faint cut", description)));
}

/** The address of a function. */
export function functionRoute(id, namespace, from) {
  return route("functions", id, { namespace: namespace === "default" ? undefined : namespace, from });
}

function tone(state) {
  if (/ready|connected/i.test(state)) return "good";
  return /fail|back/i.test(state) ? "bad" : "warn";
}
