// Run it with any number of files at a time: node --test --test-concurrency=4
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import { after, before, test } from 'node:test'
import { reserve } from 'portlease'

// Each file is a process of its own, and reserves a number of its own.
const reserved = await reserve()
const worker = `pid ${process.pid}`
let server

before(async () => {
  server = createServer((_request, response) => response.end(worker))
  await once(server.listen(reserved.port, '127.0.0.1'), 'listening')
})
after(async () => {
  server.closeAllConnections()
  await once(server.close(), 'close')
  await reserved.release()
})

for (let n = 0; n < 10; n += 1) {
  test(`the server of this worker answers, ${n}`, async () => {
    const answer = await fetch(`http://127.0.0.1:${reserved.port}/`)
    assert.equal(await answer.text(), worker)
  })
}

test('a reserved number refuses while nothing listens', async () => {
  const down = await reserve()
  const [error] = await once(connect(down.port, '127.0.0.1'), 'error').catch(e => [e])
  assert.equal(error.code, 'ECONNREFUSED')
  await down.release()
})
