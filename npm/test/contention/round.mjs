// Starts servers by number, twice for each number, and checks who answers. Eight test files
// import it. The environment says what picks the numbers, and how many.
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { reserve } from 'portlease'

const ROUNDS = Number(process.env.CONTENTION_ROUNDS)
// How long a server takes to start: the time between the pick of the number and the bind.
const START_MS = 20

async function serveOnce (port, word) {
  const server = createServer(socket => {
    socket.on('error', () => {})
    socket.end(word)
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  const client = connect(port, '127.0.0.1')
  let answer = ''
  for await (const data of client.setEncoding('utf8')) {
    answer += data
    if (answer.length >= word.length) break
  }
  client.resetAndDestroy() // A reset leaves no TIME_WAIT.
  await once(server.close(), 'close')
  return answer
}

/** The control binds port 0, and closes the socket. */
async function bindZero () {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  await once(server.close(), 'close')
  return { port, release: async () => {} }
}

export function rounds () {
  test('rounds', async () => {
    let lost = 0
    for (let n = 0; n < ROUNDS; n += 1) {
      const picked = await (process.env.CONTENTION_CONTROL ? bindZero() : reserve())
      const word = `${process.pid} ${n}`
      for (let start = 0; start < 2; start += 1) {
        await setTimeout(START_MS)
        const answer = await serveOnce(picked.port, word).catch(error => {
          if (!['EADDRINUSE', 'ECONNREFUSED', 'ECONNRESET'].includes(error.code)) throw error
          return error.code
        })
        if (answer !== word) {
          lost += 1
          break
        }
      }
      await picked.release()
    }
    console.log(`rounds ${ROUNDS} lost ${lost}`)
  })
}
