// The page: views by the address after #, the connection, the theme.

import { get, Live } from "./api.js";
import { CallDetail } from "./call_detail.js";
import { Calls, CallsList } from "./calls.js";
import { el, fill, route } from "./dom.js";
import { FunctionDetail } from "./function_detail.js";
import { focusRow, keyList, listen } from "./keyboard.js";
import { Logs, LogsList } from "./logs.js";
import { TraceView } from "./trace.js";
import { functionRoute, Workers, WorkersList } from "./workers.js";

const byId = (id) => document.getElementById(id);

const live = new Live();
const workers = new Workers();
const calls = new Calls();
const logs = new Logs();
const workersList = new WorkersList(workers);
const callsList = new CallsList(calls);
const logsList = new LogsList(logs);

let realm = "";
let startedAt;
let detail; // what is open beside a list, or the trace
let shown = {}; // the address that is shown
let steps = 0; // within this page, so that Esc knows whether there is a way back

// Views

function address() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, id] = path.split("/");
  try {
    return { view: view || "workers", id: id && decodeURIComponent(id), query: new URLSearchParams(query) };
  } catch {
    return { view: "unknown", query: new URLSearchParams() };
  }
}

function show() {
  const to = address();
  const before = shown;
  shown = to;
  const tab = { functions: "workers", trace: "calls" }[to.view] ?? to.view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (to.view === "trace" && to.id) showTrace(to, before);
  else if (to.view === "workers" || (to.view === "functions" && to.id)) showFunctions(to);
  else if (to.view === "calls") showCalls(to);
  else if (to.view === "logs") panes(logsList.element);
  else panes(el("p", { class: "empty" }, "There is no such view. ", el("a", { href: route("workers") }, "Workers")));
  entitle();
}

function entitle() {
  document.title = [shown.id ?? shown.view, realm, "AgentOS"].filter(Boolean).join(" · ");
}

function showTrace(to, before) {
  const spanId = to.query.get("span");
  if (before.view === "trace" && before.id === to.id && detail) detail.choose(spanId);
  else {
    detail = new TraceView(to.id, spanId);
    fill(byId("main"), detail.element);
  }
}

function showFunctions(to) {
  const namespace = to.query.get("namespace") ?? undefined;
  const options = { namespace, from: to.query.get("from"), focus: steps > 0 };
  detail = to.id && new FunctionDetail(to.id, options);
  workersList.mark(to.id && functionRoute(to.id, namespace));
  panes(workersList.element, "Choose a function to call it.");
}

function showCalls(to) {
  detail = to.id && new CallDetail(calls, to.id);
  callsList.mark(to.id);
  panes(callsList.element, "Choose a call to see its input, result and trace.");
}

/** A list, and what is open beside it. The list stays in place when it is there already, with its focus. */
function panes(list, hint) {
  if (!hint) detail = undefined;
  const beside = hint && (detail?.element ?? el("div", { class: "detail hint" }, el("p", { class: "empty" }, hint)));
  const main = byId("main");
  if (list.parentElement?.parentElement !== main) fill(main, el("div", { class: "panes" }, list));
  while (list.nextSibling) list.nextSibling.remove();
  if (beside) list.after(beside);
  list.parentElement.classList.toggle("open", Boolean(detail));
}

function goBack() {
  const { view, id, query } = shown;
  if (view === "trace" && query.get("span")) location.hash = route("trace", id);
  else if (view === "trace" && steps > 0) history.back();
  else if (view === "trace") location.hash = route("calls");
  else if (id) {
    location.hash = route(view === "functions" ? "workers" : view);
    focusRow();
  }
}

// The connection

async function refresh() {
  const info = await get("info");
  if (startedAt !== undefined && startedAt !== info.started_at) calls.replace([]); // another engine: it knows none of them
  startedAt = info.started_at;
  realm = info.realm;
  byId("realm").textContent = realm;
  entitle();
  workers.supervised = info.fleet;
  await Promise.all([workers.refresh(), calls.refresh(), logs.refresh()]);
}

let lost = false;

function tell(state, text) {
  byId("connection").textContent = text;
  byId("connection").dataset.state = state;
  byId("banner").hidden = state === "up";
}

live.addEventListener("up", async () => {
  try {
    await refresh();
  } catch (error) {
    return tell("down", error.message);
  }
  tell("up", "live");
  if (lost) detail?.load(); // it may have changed
  lost = false;
});
live.addEventListener("down", ({ detail: { waitMs } }) => {
  lost = true;
  tell("down", "no connection");
  const seconds = Math.max(1, Math.round(waitMs / 1000));
  byId("banner-text").textContent = `The engine does not answer. Trying again in ${seconds} s.`;
});
live.addEventListener("change", () => workers.refreshSoon());
live.addEventListener("log", (event) => logs.add(event.detail));
live.addEventListener("call", (event) => {
  calls.add(event.detail);
  detail?.changed?.(event.detail);
});
workers.addEventListener("change", () => {
  byId("workers-count").textContent = workers.all.filter(({ instances }) => instances).length || "";
});

// Controls

byId("retry").addEventListener("click", () => live.connect());
byId("keys").addEventListener("click", () => byId("help").showModal());
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // Kept for this page only.
  }
});
fill(byId("help-keys"), keyList());
listen(goBack);

addEventListener("hashchange", () => {
  steps += 1;
  show();
});
show();
live.connect();
