// Greets visitors, on the plain Node SDK.
import { registerWorker } from 'iii-sdk'

const worker = registerWorker(process.env.III_URL ?? 'ws://localhost:49134', { otel: { enabled: false } })
const call = (id, payload) => worker.trigger({ function_id: id, payload })

worker.registerFunction('greeter::words', async ({ name }) => ({ words: `${process.env.GREETING} ${name}` }))
worker.registerFunction('greeter::greet', async ({ body }) => {
  const { number } = await call('counter::count', { name: body.name })
  return { status_code: 200, body: { text: `${process.env.GREETING} ${body.name}`, visit: number } }
})
worker.registerTrigger({
  type: 'http',
  function_id: 'greeter::greet',
  config: { api_path: 'greet', http_method: 'POST' },
})
