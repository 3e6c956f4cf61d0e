import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { setTimeout } from 'node:timers/promises'

/** Runs a program, and resolves with what it printed and how it ended. */
export async function output (program, args, options = {}) {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], ...options })
  const text = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr']) {
    child[name].setEncoding('utf8').on('data', data => { text[name] += data })
  }
  child.stdin.end()
  const [code, signal] = await once(child, 'close')
  return { code, signal, ...text }
}

/** Resolves once a server listens on the port. */
export async function listen (port) {
  const server = createServer().listen(port, '127.0.0.1')
  await once(server, 'listening')
  return server
}

export async function until (condition, what) {
  const deadline = Date.now() + 60_000
  while (!await condition()) {
    if (Date.now() > deadline) throw new Error(`timed out: ${what}`)
    await setTimeout(10)
  }
}
