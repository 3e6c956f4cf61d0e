// vitest runs the files in workers. Each reserves a number of its own.
import { once } from 'node:events'
import { createServer } from 'node:http'
import { reserve } from 'portlease'
import { afterAll, beforeAll, expect, test } from 'vitest'

const worker = `worker ${process.env.VITEST_POOL_ID}, file ${import.meta.url}`
let reserved, server

beforeAll(async () => {
  reserved = await reserve()
  server = createServer((_request, response) => response.end(worker))
  await once(server.listen(reserved.port, '127.0.0.1'), 'listening')
})
afterAll(async () => {
  server.closeAllConnections()
  await once(server.close(), 'close')
  await reserved.release()
})

test.each(Array.from({ length: 10 }, (_, n) => n))('its own server answers, %i', async () => {
  const answer = await fetch(`http://127.0.0.1:${reserved.port}/`)
  expect(await answer.text()).toBe(worker)
})
