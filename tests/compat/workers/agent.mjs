// A worker on an unmodified Node SDK that a test steers by JSON lines on stdin: the counterpart of agent.py.
// usage: node agent.mjs PREFIX FOLDER PACKAGE   (the folder with node_modules, the SDK's name in it; III_URL: the engine)
import { createInterface } from 'node:readline'
import { createRequire } from 'node:module'

const [prefix, folder, name] = process.argv.slice(2)
const { registerWorker, TriggerAction } = createRequire(`${folder}/`)(name)
const notes = []
const worker = registerWorker(process.env.III_URL, { workerName: prefix, otel: { enabled: false } })
const refs = {}

const register = (name, handler, options) => {
  refs[name] = worker.registerFunction(`${prefix}::${name}`, handler, options)
}
const echo = async (data) => data

register('echo', echo, {
  description: `echo of ${prefix}`,
  request_format: { type: 'object', properties: { text: { type: 'string' } } },
  response_format: { type: 'object' },
  metadata: { team: 'compat' },
})
register('hidden', echo, { metadata: { internal: true } })
register('metadata', async (data, metadata) => ({ metadata: metadata ?? null }))
register('fail', async () => { throw new Error(`handler of ${prefix} failed`) })
register('slow', async (data) => {
  await new Promise((resolve) => setTimeout(resolve, data.ms))
  return { slept: data.ms, tag: data.tag ?? null }
})
register('note', async (data) => {
  notes.push(data)
  if (data && data.fail) throw new Error('a void call fails unheard')
})
register('nothing', async () => undefined)
register('page', async () => ({
  status_code: 201, headers: { 'Content-Type': 'text/html', 'X-From': prefix }, body: '<p>hello</p>',
}))
register('listed', async (data) => ({ headers: ['X-Listed: yes'], body: { request: data } }))
register('keyless', async () => ({ anything: 1 }))

const route = (method, path, name) => worker.registerTrigger({
  type: 'http', function_id: `${prefix}::${name}`, config: { api_path: path, http_method: method },
})
route('POST', `/${prefix}/items/:item`, 'listed')
route('GET', `/${prefix}/items/:item`, 'listed')
route('GET', `${prefix}/page`, 'page')
route('GET', `${prefix}/fail`, 'fail')
route('GET', `${prefix}/slow`, 'slow')
route('GET', `${prefix}/keyless`, 'keyless')

const operations = {
  call: async (request) => {
    const trigger = { function_id: request.function_id, timeoutMs: request.timeout_ms ?? 10000 }
    for (const key of ['payload', 'metadata']) if (key in request) trigger[key] = request[key]
    if (request.void) trigger.action = TriggerAction.Void()
    if (request.queue) trigger.action = TriggerAction.Enqueue({ queue: request.queue })
    return worker.trigger(trigger)
  },
  notes: async () => notes,
  register: async (request) => { register(request.name, echo) },
  unregister: async (request) => { refs[request.name].unregister() },
  bind: async (request) => {
    worker.registerTrigger({ type: request.type, function_id: request.function_id, config: request.config })
  },
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

const lines = createInterface({ input: process.stdin })
lines.on('line', (line) => answer(JSON.parse(line)))
lines.on('close', async () => {
  await worker.shutdown()
  process.exit(0)
})
