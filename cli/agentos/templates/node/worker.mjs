// my-worker: greets people, and counts the minutes.
import { registerWorker } from 'iii-sdk'

// Telemetry has a connection of its own; the calls of this worker are in the engine's traces without it too.
const telemetry = process.env.OTEL_ENABLED === 'true'

const worker = registerWorker(process.env.III_URL ?? 'ws://127.0.0.1:49134', {
  workerName: 'my-worker',
  workerDescription: 'Greets people, and counts the minutes',
  enableMetricsReporting: telemetry,
  otel: { enabled: telemetry },
})

// The engine keeps this value: it outlives the worker, and all replicas see the same one.
const MINUTES = { scope: 'my-worker', key: 'minutes' }

const call = (functionId, payload) => worker.trigger({ function_id: functionId, payload, timeoutMs: 5000 })

class InvalidInput extends Error {}

// Registers a function that can also be bound to an HTTP route. A request by HTTP arrives as an envelope, with its JSON
// in `body`, and is answered with a status; any other call has the bare input and gets the bare result.
const register = (functionId, description, formats, handler) => worker.registerFunction(functionId, async (data) => {
  if (data?.trigger?.type !== 'http') return handler(data)
  try {
    return { status_code: 200, body: await handler(data.body) }
  } catch (error) {
    if (!(error instanceof InvalidInput)) throw error
    return { status_code: 400, body: { error: { code: 'INVALID_INPUT', message: error.message } } }
  }
}, { description, ...formats })

// The JSON Schemas are for people and programs that look for a function; what a call brings is checked here.
register('my-worker::greet', 'Greets somebody by name.', {
  request_format: { type: 'object', properties: { name: { type: 'string', maxLength: 100 } }, required: ['name'] },
  response_format: { type: 'object', properties: { message: { type: 'string' } }, required: ['message'] },
}, async (input) => {
  const name = input?.name
  if (typeof name !== 'string' || name === '' || name.length > 100) {
    throw new InvalidInput('name: must be a text of 1 to 100 characters')
  }
  return { message: `Hello, ${name}!` }
})
worker.registerTrigger({
  type: 'http', function_id: 'my-worker::greet', config: { api_path: 'my-worker/greet', http_method: 'POST' },
})

const total = { type: 'object', properties: { minutes: { type: 'integer' } }, required: ['minutes'] }

register('my-worker::count', 'Counts one minute more.', { response_format: total }, async () => {
  // One operation of the engine, not a read and a write: no count is lost when two calls meet.
  const oneMore = { type: 'increment', path: 'total', by: 1 }
  const changed = await call('state::update', { ...MINUTES, ops: [oneMore] })
  return { minutes: changed.new_value.total }
})
worker.registerTrigger({
  type: 'cron', function_id: 'my-worker::count', config: { expression: '0 * * * * *' }, // second 0 of every minute
})

register('my-worker::total', 'Says how many minutes were counted so far.', { response_format: total }, async () => {
  const kept = await call('state::get', MINUTES)
  return { minutes: kept?.total ?? 0 }
})
worker.registerTrigger({
  type: 'http', function_id: 'my-worker::total', config: { api_path: 'my-worker/total', http_method: 'GET' },
})

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    await worker.shutdown()
    process.exit(0)
  })
}
