// Draws ephemeral ports until its stdin is closed: it binds port 0, and connects to itself.
import { once } from 'node:events'
import { connect, createServer } from 'node:net'

// The neighbour holds at most this number of the 300 ports at a time.
const HELD = 60

const bound = async () => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server
}

const own = await bound()
own.on('connection', socket => socket.on('error', () => {}))
const held = []
let drawn = 0
let ended = false
process.stdin.resume().on('end', () => { ended = true })
while (!ended) {
  const client = connect(own.address().port, '127.0.0.1')
  client.on('error', () => {})
  await once(client, 'connect')
  client.resetAndDestroy() // A reset leaves no TIME_WAIT, which would use up the range.
  held.push(await bound())
  if (held.length > HELD) held.shift().close()
  drawn += 2
}
console.log(drawn)
process.exit()
