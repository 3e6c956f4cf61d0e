// The command that the package installs in node_modules/.bin.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { whoHolds } from 'portlease'
import { output } from './support.mjs'

const PORTLEASE = 'node_modules/.bin/portlease'

test('it ends with the exit code of the command', async () => {
  const run = code => output(PORTLEASE, ['run', '--', process.execPath, '-e', code])
  assert.match((await run('console.log(process.env.PORT)')).stdout, /^\d+\n$/)
  assert.equal((await run('process.exit(7)')).code, 7)
  assert.equal((await output(PORTLEASE, ['check', 'x'])).code, 2)
  assert.equal((await output(PORTLEASE, ['run', '--', '/missing'])).code, 127)
})

test('SIGTERM ends the command, and it dies by the signal', async () => {
  const code = 'setInterval(() => {}, 1); console.log(process.env.PORT)'
  const child = spawn(PORTLEASE, ['run', '--', process.execPath, '-e', code])
  const port = Number.parseInt(String((await once(child.stdout, 'data'))[0]))
  assert.equal((await whoHolds(port)).leases.length, 1)
  child.kill('SIGTERM')
  const [status, signal] = await once(child, 'close')
  // `portlease run` reports a command that a signal ended as a shell does.
  assert(status === 128 + 15 || signal === 'SIGTERM', `${status} ${signal}`)
  assert.equal((await whoHolds(port)).leases.length, 0)
})

test('reserve needs a pid: the shell that called npm cannot be seen', async () => {
  for (const args of [['reserve'], ['--color', 'never', 'reserve', '-n', '2']]) {
    const refused = await output(PORTLEASE, args)
    assert.equal(refused.code, 2)
    assert.match(refused.stderr, /pass --pid \$\$/)
  }
  const reserved = await output(PORTLEASE, ['reserve', '--pid', String(process.pid)])
  assert.equal((await whoHolds(Number(reserved.stdout))).leases.length, 1)
  assert.match((await output(PORTLEASE, ['reserve', '--help'])).stdout, /--pid/)
})
