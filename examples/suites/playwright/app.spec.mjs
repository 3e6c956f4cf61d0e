import { once } from 'node:events'
import { createServer } from 'node:http'
import { test as base, expect } from '@playwright/test'
import { reserve } from 'portlease'

// A server for each worker, beside the one of the config that all workers share.
const test = base.extend({
  api: [async ({}, use, { workerIndex }) => {
    const { port } = await reserve({ label: `worker ${workerIndex}` })
    const server = createServer((_request, response) => response.end(`worker ${workerIndex}`))
    await once(server.listen(port, '127.0.0.1'), 'listening')
    await use(`http://127.0.0.1:${port}/`)
    server.closeAllConnections()
    await once(server.close(), 'close')
  }, { scope: 'worker' }]
})

for (let n = 0; n < 12; n += 1) {
  test(`both servers answer, ${n}`, async ({ api, request }, { workerIndex }) => {
    expect(await (await request.get(api)).text()).toBe(`worker ${workerIndex}`)
    expect(await (await request.get('/')).text()).toBe('web server')
  })
}
