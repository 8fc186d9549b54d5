// Numbers, times and JSON as people read them.

import { block, copyButton, el } from "./dom.js";

/** Nanoseconds in a millisecond. */
export const MILLION = 1e6;

/** Milliseconds, in the unit that fits; null is that of something that still runs. */
export function duration(milliseconds) {
  if (milliseconds === null) return "running";
  if (milliseconds < 1) return `${milliseconds.toFixed(2)} ms`;
  if (milliseconds < 100) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 60_000) return `${(milliseconds / 1000).toFixed(2)} s`;
  const seconds = Math.round(milliseconds / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

const TIME = { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 };
const TIME_OF_DAY = new Intl.DateTimeFormat("en-GB", TIME);

/** The time of day of milliseconds since 1970, with milliseconds. */
export function timeOfDay(milliseconds) {
  return TIME_OF_DAY.format(milliseconds);
}

/** Date and time of milliseconds since 1970. */
export function dateAndTime(milliseconds) {
  return new Date(milliseconds).toLocaleString();
}

/** `count(2, "span")` is "2 spans". */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** Names and values under each other. */
export function pairs(entries) {
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  const pair = ([name, value]) => [el("dt", {}, name), el("dd", {}, text(value))];
  return el("dl", { class: "pairs" }, entries.flatMap(pair));
}

const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** A value as indented, coloured JSON under a heading, with a button to copy it. */
export function jsonBlock(heading, value) {
  const text = JSON.stringify(value, null, 2);
  return block(heading, copyButton(heading.toLowerCase(), text),
    el("pre", { tabindex: "0", role: "region", "aria-label": heading }, coloured(text)));
}

function coloured(text) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(TOKEN)) {
    const [token, string, colon, word] = found;
    parts.push(text.slice(end, found.index));
    const kind = string ? (colon ? "key" : "string") : word ? "word" : "number";
    parts.push(el("span", { class: kind }, string ?? token), colon);
    end = found.index + token.length;
  }
  return [...parts, text.slice(end)];
}
