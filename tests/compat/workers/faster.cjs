// Loaded before a worker, lets its timers run twenty times as fast: what an SDK does after a minute shows in three seconds.
for (const name of ['setTimeout', 'setInterval']) {
  const real = globalThis[name]
  globalThis[name] = (callback, ms = 0, ...rest) => real(callback, ms / 20, ...rest)
}
