// Keys. A control with `data-key` is clicked, or a field focused, by that key; rows (`data-row`) are moved through.

import { el } from "./dom.js";

const SEQUENCE_MS = 1200;
const GO = { w: "#/workers", c: "#/calls", l: "#/logs" };

const KEYS = [
  ["j k ↓ ↑", "next, previous row"],
  ["Enter", "open"],
  ["Esc", "back"],
  ["/", "filter"],
  ["g w", "workers"],
  ["g c", "calls"],
  ["g l", "logs"],
  ["Ctrl Enter", "call the function"],
  ["r", "call again with the same input"],
  ["e", "edit the input and call"],
  ["t", "open the trace"],
  ["p", "pause and go on"],
  ["?", "this list"],
];

/** The keys as terms and descriptions. */
export function keyList() {
  const one = (key) => el("kbd", {}, key);
  return KEYS.flatMap(([keys, what]) => [el("dt", {}, keys.split(" ").map(one)), el("dd", {}, what)]);
}

/** Listens to keys. `back()` is called for Esc outside of fields. */
export function listen(back) {
  let pressedG = -Infinity;
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return; // it closes by itself
    const field = event.target.closest("input, textarea, select");
    if (event.key === "Escape") {
      if (field) leave(field);
      else back();
      event.preventDefault();
      return;
    }
    if (field?.classList.contains("filter") && (event.key === "Enter" || event.key === "ArrowDown")) {
      move(event, 1);
      return;
    }
    if (field) return;
    const afterG = event.timeStamp - pressedG < SEQUENCE_MS;
    pressedG = event.key === "g" ? event.timeStamp : -Infinity;
    if (afterG && GO[event.key]) location.hash = GO[event.key];
    else if (event.key === "j" || event.key === "ArrowDown") move(event, 1);
    else if (event.key === "k" || event.key === "ArrowUp") move(event, -1);
    else press(event);
  });
  document.addEventListener("focusin", ({ target }) => {
    if (target.matches("[data-row]")) oneStop(target.closest("[data-rows]"));
  });
}

/** Lets Tab stop at one row of a list only: the one with the focus, else the one that is open, else the first. */
export function oneStop(list) {
  const row = ["[data-row]:focus", "[aria-current]", "[data-row]"].map((each) => list.querySelector(each)).find(Boolean);
  for (const each of list.querySelectorAll('[tabindex="0"]')) each.tabIndex = -1;
  if (row) row.tabIndex = 0;
}

/** Draws rows anew; the focus stays with the row that leads to the same address. */
export function keepFocus(list, draw) {
  const focused = list.contains(document.activeElement) && document.activeElement.getAttribute("href");
  draw();
  if (focused) list.querySelector(`[data-row][href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

/** Puts the focus back on the row that is open, or that had it. */
export function focusRow() {
  const list = firstList();
  const row = list?.querySelector("[aria-current]") ?? list?.querySelector('[tabindex="0"]');
  (row ?? document.getElementById("main")).focus();
}

function firstList() {
  return [...document.querySelectorAll("[data-rows]")].find((list) => list.offsetParent);
}

function leave(field) {
  if (field.classList.contains("filter") && field.value) {
    field.value = "";
    field.dispatchEvent(new Event("input"));
  }
  field.blur();
  focusRow();
}

function move(event, step) {
  const inside = event.target.closest("[data-rows]");
  const list = inside ?? firstList();
  if (!list || (event.key.startsWith("Arrow") && !inside && event.target.closest(".detail"))) return; // they scroll
  const rows = [...list.querySelectorAll("[data-row]")];
  const at = rows.indexOf(event.target);
  const row = at >= 0 ? rows[at + step] : list.querySelector('[tabindex="0"]');
  if (row) {
    row.focus();
    row.scrollIntoView({ block: "nearest" });
    event.preventDefault();
  }
}

function press(event) {
  const control = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (!control || control.disabled) return;
  event.preventDefault();
  if (control.matches("input")) {
    control.focus();
    control.select();
  } else control.click();
}
