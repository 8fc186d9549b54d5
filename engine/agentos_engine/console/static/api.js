// The console's HTTP API.

/** What the API or a function refused. */
export class ApiError extends Error {
  constructor(code, message, status) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

/** Returns the JSON at a path below /api. Throws ApiError. */
export async function get(path) {
  return answer(fetch(`/api/${path}`, { cache: "no-store" }));
}

/**
 * Calls a function and returns `{result | error, duration_ms, trace_id}`. Throws ApiError when the call could not even
 * be made.
 */
export async function call(functionId, payload, { timeoutMs, namespace } = {}) {
  const body = JSON.stringify({ function_id: functionId, payload, timeout_ms: timeoutMs, namespace });
  return answer(fetch("/api/call", { method: "POST", headers: { "content-type": "application/json" }, body }));
}

/** Returns the result of a function. Throws ApiError when it failed. */
export async function ask(functionId, payload = {}) {
  const { result, error } = await call(functionId, payload);
  if (error) throw new ApiError(error.code, error.message);
  return result;
}

async function answer(request) {
  let response, body;
  try {
    response = await request;
    body = await response.json();
  } catch {
    throw new ApiError("NO_ANSWER", "The engine does not answer.", 0);
  }
  if (response.ok) return body;
  throw new ApiError(body.error.code, body.error.message, response.status);
}

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

/**
 * The engine's events, as events of this object: `call` and `log` with the record in `detail`, `change`; `up` each time
 * the connection is there, `down` each time it is lost or cannot be made, with `detail.waitMs` until the next try.
 */
export class Live extends EventTarget {
  #source;
  #timer;
  #waitMs = FIRST_WAIT_MS;

  /** Connects, now. */
  connect() {
    clearTimeout(this.#timer);
    this.#source?.close();
    const source = new EventSource("/api/events");
    this.#source = source;
    source.onopen = () => {
      this.#waitMs = FIRST_WAIT_MS;
      this.#tell("up");
    };
    source.onerror = () => {
      if (source !== this.#source) return;
      source.close(); // the browser's own attempts have no back-off
      this.#timer = setTimeout(() => this.connect(), this.#waitMs);
      this.#tell("down", { waitMs: this.#waitMs });
      this.#waitMs = Math.min(this.#waitMs * 2, LONGEST_WAIT_MS);
    };
    for (const topic of ["call", "change", "log"]) {
      source.addEventListener(topic, (event) => this.#tell(topic, JSON.parse(event.data)));
    }
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
