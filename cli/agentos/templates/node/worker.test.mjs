// Run with `agentos test .`: the worker runs, and this connects to its engine, whose clock only the test moves.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { registerWorker } from 'iii-sdk'

const client = registerWorker(process.env.III_URL, {
  workerName: 'my-worker-test', enableMetricsReporting: false, otel: { enabled: false },
})
const call = (functionId, payload = {}) => client.trigger({ function_id: functionId, payload, timeoutMs: 10000 })

after(() => client.shutdown())

test('greets by name', async () => {
  assert.deepEqual(await call('my-worker::greet', { name: 'Ada' }), { message: 'Hello, Ada!' })
})

test('refuses a greeting without a name', async () => {
  await assert.rejects(call('my-worker::greet'), { message: /name: must be a text/ })
})

test('counts the minutes', async () => {
  const before = await call('my-worker::total')
  await call('engine::clock::advance', { seconds: 180 })
  assert.deepEqual(await call('my-worker::total'), { minutes: before.minutes + 3 })
})
