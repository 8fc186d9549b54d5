// Elements. Text is always set as text and never read as HTML, since names and payloads come from strangers.

/**
 * Makes an element. Properties that are undefined, null or false are left out; `on…` are listeners, all others
 * attributes. Children are elements or text.
 */
export function el(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  fill(element, ...children);
  return element;
}

/** Replaces what is in an element; children that are undefined, null, false or "" are left out. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child || child === 0));
}

/** Text within a line. */
export function inline(className, ...children) {
  return el("span", { class: className }, ...children);
}

/** A remark. */
export function note(text) {
  return el("p", { class: "note" }, text);
}

/** A button. */
export function button(className, text, onclick, properties) {
  return el("button", { type: "button", class: className, onclick, ...properties }, text);
}

/** A row that leads to an address, and that keys move to. */
export function rowLink(className, href, properties, ...children) {
  return el("a", { class: `row ${className}`, href, "data-row": true, tabindex: "-1", ...properties }, ...children);
}

/** A function that runs another so many milliseconds later, once for all times that it is called until then. */
export function soon(milliseconds, run) {
  let timer;
  return () => {
    timer ??= setTimeout(() => {
      timer = undefined;
      run();
    }, milliseconds);
  };
}

/** The address of a view, such as `route("calls", id)`; `query` is what comes after `?`. */
export function route(view, id, query) {
  const path = id === undefined ? `#/${view}` : `#/${view}/${encodeURIComponent(id)}`;
  const given = Object.entries(query ?? {}).filter(([, value]) => value);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** Marks the row that leads to an address as the one that is open. */
export function mark(list, address) {
  for (const row of list.querySelectorAll("a[data-row]")) {
    if (row.getAttribute("href") === address) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

/** The pane of a list: `tools` above it, `note` below it. */
export function listPane(name, tools, list, note) {
  return el("section", { class: "list", "aria-label": name },
    tools && el("div", { class: "tools" }, tools), el("div", { class: "scroll" }, list, note));
}

/** The pane of one thing. */
export function detailPane(name) {
  return el("article", { class: "detail", "aria-label": name });
}

/** A field that narrows a list. Calls `changed(words)` with the lower-case words that were typed. */
export function filterField(label, changed) {
  return el("input", {
    type: "search", class: "filter", placeholder: "Filter  /", "aria-label": label, "data-key": "/",
    spellcheck: "false", oninput: ({ target }) => changed(target.value.toLowerCase().split(/\s+/).filter(Boolean)),
  });
}

/** A button that is on or off. Calls `changed(on)`. */
export function toggle(text, changed, properties) {
  return button("toggle", text, ({ currentTarget }) => {
    const on = currentTarget.getAttribute("aria-pressed") !== "true";
    currentTarget.setAttribute("aria-pressed", String(on));
    changed(on);
  }, { "aria-pressed": "false", ...properties });
}

/** The button that shows what is about the engine itself as well. Calls `changed(on)`. */
export function engineToggle(changed) {
  return toggle("Engine’s own", changed, { title: "Show the engine’s own functions" });
}

/** A button that copies a text. */
export function copyButton(what, text) {
  return button("quiet", "Copy", async ({ target }) => {
    target.textContent = await navigator.clipboard.writeText(text).then(() => "Copied", () => "Not allowed");
    setTimeout(() => (target.textContent = "Copy"), 1500);
  }, { "aria-label": `Copy ${what}` });
}

/** What says that something failed: `error` has a message, and perhaps a code. */
export function failure({ code, message }) {
  return el("div", { class: "failure", role: "alert" }, code && el("b", {}, code), el("p", {}, message));
}

/** The way back to the list, where there is room for one pane only. */
export function back(address) {
  return el("a", { class: "back", href: address }, "← Back");
}

/** A part of what is shown of something, under a heading with something beside it. */
export function block(heading, beside, ...content) {
  return el("section", { class: "block" }, el("div", { class: "block-head" }, el("h3", {}, heading), beside), ...content);
}
