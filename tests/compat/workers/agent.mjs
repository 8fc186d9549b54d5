// A worker on an unmodified Node SDK that a test steers by JSON lines on stdin: the counterpart of agent.py.
// usage: node agent.mjs PREFIX FOLDER PACKAGE   (the folder with node_modules, the SDK's name in it; III_URL: the engine)
import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import { createRequire } from 'node:module'

const [prefix, folder, name] = process.argv.slice(2)
const load = createRequire(`${folder}/`)
const sdk = load(name)
const old = 'http' in sdk // the 0.11 line
const { registerWorker, TriggerAction } = sdk
const { http } = old ? sdk : load('@iii-dev/helpers/http')
const { createChannel, createStream } = old ? {} : load(`${name}/helpers`)
const { Logger, currentTraceId } = old ? { ...sdk, ...load(`${name}/telemetry`) } : load('@iii-dev/helpers/observability')

const records = {}
const refs = {}
const bindings = []
const channels = []
const logLines = []
let release
const released = new Promise((resolve) => { release = resolve })
let workerId = null

for (const level of ['debug', 'info', 'warn', 'error']) { // what the SDK logs is kept
  console[level] = (...parts) => {
    logLines.push(parts.map(String).join(' '))
    if (parts[0] === '[iii] Worker registered with ID:') workerId = parts[1]
  }
}

const worker = registerWorker(process.env.III_URL, {
  ...('III_WORKER_NAME' in process.env ? {} : { workerName: prefix }),
  otel: { enabled: process.env.OTEL_ENABLED === 'true' },
  ...('AGENT_HEADERS' in process.env ? { headers: JSON.parse(process.env.AGENT_HEADERS) } : {}),
})

// The value with the ends of channels replaced by their direction: what JSON can say.
const plain = (value) => {
  if (value instanceof Object && 'readAll' in value) return 'reader'
  if (value instanceof Object && 'sendMessage' in value) return 'writer'
  if (Array.isArray(value)) return value.map(plain)
  if (value instanceof Object) return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]))
  return value
}
const record = (name, entry) => (records[name] ??= []).push(entry)
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const failed = () => new Error(`handler of ${prefix} failed`)

// Everything that comes through a channel, in order.
const drain = async (reader) => {
  const items = []
  reader.onMessage((text) => items.push({ text }))
  for await (const data of reader.stream) items.push({ bytes: data.toString('base64') })
  return items
}
// The texts, and what all bytes together are.
const summary = (items) => {
  const data = Buffer.concat(items.filter((each) => 'bytes' in each).map((each) => Buffer.from(each.bytes, 'base64')))
  const texts = items.filter((each) => 'text' in each).map((each) => each.text)
  return { texts, size: data.length, sha256: createHash('sha256').update(data).digest('hex') }
}
const written = (writer, data) => new Promise((resolve, reject) => {
  writer.stream.write(data, (error) => (error ? reject(error) : resolve()))
})
const pour = async (writer, items) => {
  for (const item of items) {
    if ('text' in item) writer.sendMessage(item.text)
    else await written(writer, Buffer.from(item.bytes, 'base64'))
  }
  await new Promise((resolve) => writer.stream.end(resolve))
}

// The handlers that a request for a function describes.
const behaviours = {
  echo: () => async (data) => data,
  fail: () => async () => { throw failed() },
  slow: () => async (data) => {
    await pause(data.ms)
    return { slept: data.ms, tag: data.tag ?? null }
  },
  metadata: () => async (data, metadata) => ({ metadata: metadata ?? null }),
  record: (request) => async (data, metadata) => {
    const count = record(request.id, { data: plain(data) ?? null, metadata: old ? null : metadata ?? null })
    await pause(request.delay_ms ?? 0)
    if (request.fail === true || count <= (request.fail_first ?? 0)) throw failed()
    return request.result
  },
  relay: () => async (data) => {
    const asked = data.body ?? data // by a call, or by an HTTP request
    const action = asked.queue ? { action: TriggerAction.Enqueue({ queue: asked.queue }) } : {}
    const called = await worker.trigger({ function_id: asked.function_id, payload: asked.payload, ...action })
    return { via: prefix, result: called }
  },
  trace: () => async () => ({ trace_id: currentTraceId() }),
  request_body: () => async (data) => {
    const body = await data.request_body.readAll()
    return { body: { bytes: body.toString('base64'), parsed: plain(data.body) } }
  },
  held: (request) => async (data) => {
    const chunks = data.request_body.stream[Symbol.asyncIterator]()
    let size = (await chunks.next()).value.length
    record(request.id, { data: { first: size } })
    await released
    for await (const chunk of chunks) size += chunk.length
    return { body: { size } }
  },
  streamed: (request) => http(async (_, response) => {
    response.status(request.status ?? 200)
    response.headers(request.headers)
    for (const chunk of request.chunks) await new Promise((resolve) => response.stream.write(chunk, resolve))
    response.stream.end()
  }),
  drain: (request) => async (data) => {
    const items = await drain(data.reader)
    return request.summary ? summary(items) : { items }
  },
  pour: () => async (data) => { await pour(data.writer, data.items) },
}

// A trigger type that records its bindings; it refuses those whose config says so.
const recorded = (id) => {
  const note = (event, { id: binding, function_id, config, metadata }) => record(`type:${id}`, {
    event, id: binding, function_id, config: config ?? null, metadata: metadata ?? null,
  })
  return {
    registerTrigger: async (binding) => {
      note('register', binding)
      if (binding.config?.refuse) throw new Error(`${prefix} refuses this config`)
    },
    unregisterTrigger: async (binding) => note('unregister', binding),
  }
}

// A stream of the worker's own, always with the same items.
const fixed = {
  get: async (query) => ({ of: prefix, item: query.item_id }),
  set: async (change) => { record(`stream:${change.stream_name}`, { data: change.data }) },
  delete: async () => undefined,
  list: async (query) => [{ of: prefix, group: query.group_id }],
  listGroups: async () => [`group of ${prefix}`],
  update: async () => undefined,
}

const picked = (request, keys) => Object.fromEntries(keys.filter((key) => key in request).map((key) => [key, request[key]]))

const operations = {
  function: async (request) => {
    const options = picked(request, ['description', 'metadata', 'request_format', 'response_format'])
    const handler = 'url' in request ? picked(request, ['url', 'method', 'auth', 'headers']) : behaviours[request.do](request)
    refs[request.id] = worker.registerFunction(request.id, handler, options)
  },
  unfunction: async (request) => { refs[request.id].unregister() },
  bind: async (request) => {
    bindings.push(worker.registerTrigger(picked(request, ['type', 'function_id', 'config', 'metadata'])))
    return bindings.length - 1
  },
  unbind: async (request) => { bindings[request.binding].unregister() },
  own: async (request) => { worker.registerTriggerType({ id: request.id, description: 'a type of its own' }, recorded(request.id)) },
  disown: async (request) => { worker.unregisterTriggerType({ id: request.id, description: '' }) },
  call: async (request) => {
    const trigger = { function_id: request.function_id, timeoutMs: request.timeout_ms ?? 10000 }
    Object.assign(trigger, picked(request, ['payload', 'metadata']))
    if (request.void) trigger.action = TriggerAction.Void()
    if (request.queue) trigger.action = TriggerAction.Enqueue({ queue: request.queue })
    return worker.trigger(trigger)
  },
  channel: async (request) => {
    const channel = old ? await worker.createChannel(request.buffer_size) : await createChannel(worker, request.buffer_size)
    channels.push(channel)
    return { channel: channels.length - 1, writer: channel.writerRef, reader: channel.readerRef }
  },
  write: async (request) => pour(channels[request.channel].writer, request.items),
  read: async (request) => {
    const items = await drain(channels[request.channel].reader)
    return request.summary ? summary(items) : items
  },
  stream: async (request) => (old ? worker.createStream(request.name, fixed) : createStream(worker, request.name, fixed)),
  log: async (request) => { new Logger()[request.level](request.message, request.data) },
  seen: async (request) => records[request.id] ?? [],
  worker_id: async () => workerId,
  logged: async () => logLines,
  release: async () => release(),
  pass: async (request) => pause(request.ms), // time as the SDK's timers see it
}

const answer = async (request) => {
  let reply
  try {
    reply = { result: (await operations[request.op](request)) ?? null }
  } catch (error) {
    reply = { error: { code: error.code ?? error.name, message: error.message, stacktrace: error.stacktrace ?? null } }
  }
  process.stdout.write(JSON.stringify({ n: request.n, ...reply }) + '\n')
}

await operations.function({
  id: `${prefix}::echo`, do: 'echo', description: `echo of ${prefix}`, metadata: { team: 'compat' },
  request_format: { type: 'object', properties: { text: { type: 'string' } } }, response_format: { type: 'object' },
})
await operations.function({ id: `${prefix}::hidden`, do: 'echo', metadata: { internal: true } })
for (const each of ['fail', 'slow', 'metadata', 'record']) await operations.function({ id: `${prefix}::${each}`, do: each })
await operations.function({ id: `${prefix}::keyless`, do: 'record', result: { anything: 1 } })
await operations.bind({
  type: 'http', function_id: `${prefix}::keyless`, config: { api_path: `${prefix}/keyless`, http_method: 'GET' },
})

const lines = createInterface({ input: process.stdin })
lines.on('line', (line) => answer(JSON.parse(line)))
lines.on('close', async () => {
  await worker.shutdown()
  process.exit(0)
})
