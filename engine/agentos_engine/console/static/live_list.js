// Records, newest first, and a list of them that changes while one looks at it.

import { el, engineToggle, filterField, listPane, soon, toggle } from "./dom.js";
import { oneStop } from "./keyboard.js";

const REDRAW_MS = 80;

/** The newest records, at most `limit`. Tells by `change`, with the record in `detail` when it was one. */
export class Records extends EventTarget {
  constructor(limit) {
    super();
    this.limit = limit;
    this.items = [];
    this.byKey = new Map();
  }

  /** Adds a record at the front, or puts it in the place of the one with this key. */
  put(key, record) {
    if (this.byKey.has(key)) this.items[this.items.findIndex((each) => each.key === key)] = { key, record };
    else this.items.unshift({ key, record });
    this.byKey.set(key, record);
    while (this.items.length > this.limit) this.byKey.delete(this.items.pop().key);
    this.dispatchEvent(new CustomEvent("change", { detail: record }));
  }

  /** Replaces all records by `[key, record]` pairs, newest first. */
  replace(pairs) {
    this.items = pairs.slice(0, this.limit).map(([key, record]) => ({ key, record }));
    this.byKey = new Map(this.items.map(({ key, record }) => [key, record]));
    this.dispatchEvent(new CustomEvent("change"));
  }
}

/**
 * Shows records, with a filter and a button to pause. `textOf(record)` is what the filter looks at; `fillRow(item, record)`
 * fills a list item, again when its record was replaced; other rows stay as they are, so that focus and scroll position do.
 * Records of which `isEngines(record)` is true are hidden until they are asked for.
 */
export class LiveList {
  #rows = new Map();
  #words = [];
  #engine = false;
  #frozen; // the items that are shown while it is paused
  #missed = 0;

  constructor(records, { name, empty, textOf, fillRow, isEngines }) {
    Object.assign(this, { records, empty, textOf, fillRow, isEngines });
    this.list = el("ul", { "data-rows": true, "aria-label": `${name}, newest first` });
    this.note = el("p", { class: "empty" });
    this.pause = toggle("Pause", (on) => {
      this.#frozen = on ? [...records.items] : undefined;
      this.#missed = 0;
      this.#draw();
    }, { "data-key": "p" });
    const filter = filterField(`Filter ${name.toLowerCase()}`, (words) => this.#draw((this.#words = words)));
    const engine = isEngines && engineToggle((on) => this.#draw((this.#engine = on)));
    this.element = listPane(name, [filter, engine, this.pause], this.list, this.note);
    const drawSoon = soon(REDRAW_MS, () => this.#draw());
    records.addEventListener("change", ({ detail }) => {
      if (detail) this.#missed += 1;
      drawSoon();
    });
    this.#draw();
  }

  #draw() {
    this.pause.textContent = this.#frozen && this.#missed ? `Paused, ${this.#missed} new` : "Pause";
    const items = this.#frozen ?? this.records.items;
    const wanted = items.filter(({ record }) => {
      if (!this.#engine && this.isEngines?.(record)) return false;
      const text = this.#words.length ? this.textOf(record).toLowerCase() : "";
      return this.#words.every((word) => text.includes(word));
    });
    const keys = new Set(wanted.map(({ key }) => key));
    for (const [key, { item }] of this.#rows) {
      if (keys.has(key)) continue;
      item.remove();
      this.#rows.delete(key);
    }
    let place = this.list.firstElementChild;
    for (const { key, record } of wanted) {
      const row = this.#rows.get(key) ?? { item: el("li") };
      this.#rows.set(key, row);
      if (row.record !== record) this.fillRow(row.item, record);
      row.record = record;
      if (row.item === place) place = place.nextElementSibling;
      else this.list.insertBefore(row.item, place);
    }
    oneStop(this.list);
    this.note.hidden = wanted.length > 0;
    this.note.textContent = this.records.error?.message ?? (items.length ? "Nothing matches." : this.empty);
  }
}
