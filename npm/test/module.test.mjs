// The module. Each test file is a process of its own.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { Worker } from 'node:worker_threads'
import portlease, * as names from 'portlease'
import { listen, output, until } from './support.mjs'

const { checkFree, findCommand, named, reserve, reserveMany, waitListening, whoHolds } = names
const isReserved = async port => (await whoHolds(port)).leases.length > 0

test('a server starts on its port again and again', async () => {
  const reserved = await reserve()
  assert.equal(reserved.guarantee, 'kernel')
  for (let n = 0; n < 3; n += 1) {
    const server = await listen(reserved.port)
    await once(server.close(), 'close')
  }
  assert(await isReserved(reserved.port))
  await Promise.all([reserved.release(), reserved.release()])
  assert(!await isReserved(reserved.port))
})

test('the end of a block releases the port', async () => {
  const reserved = await reserve()
  await reserved[Symbol.asyncDispose]()
  assert(!await isReserved(reserved.port))
})

test('a reserved number is refused, and its owner named', async () => {
  const { port } = await reserve({ label: 'the first' })
  await assert.rejects(reserve({ port }), error => {
    assert(error instanceof names.PortleaseError)
    assert.match(error.message, new RegExp(`^cannot reserve ${port}/tcp: .*the first`))
    return true
  })
})

test('many are different, a block is consecutive, and UDP has numbers of its own', async () => {
  const many = await reserveMany(5)
  assert.equal(new Set(many.map(reserved => reserved.port)).size, 5)
  const block = await reserveMany(3, { block: true })
  assert.deepEqual(block.map(reserved => reserved.port - block[0].port), [0, 1, 2])
  assert.equal((await reserve({ udp: true })).protocol, 'udp')
})

test('a name stands for one number in each project', async () => {
  process.env.PORTLEASE_PROJECT = import.meta.url
  const first = await named('db')
  const second = await named('db')
  assert.equal(first.firstChoice, first.port)
  assert.equal(second.firstChoice, first.port)
  assert.notEqual(second.port, first.port)
  await Promise.all([first.release(), second.release()])
  const again = await named('db')
  assert.equal(again.port, first.port)
  process.env.PORTLEASE_PROJECT += 'other'
  assert.notEqual((await named('db')).port, first.port)
})

test('by default the label is the file that node runs', async () => {
  const { port } = await reserve()
  const [lease] = (await whoHolds(port)).leases
  assert.match(lease.label, /module\.test\.mjs$/)
})

test('a port in use is reported with its holder', async () => {
  const { port } = await reserve()
  await checkFree([port, `${port}/udp`])
  const server = await listen(port)
  const report = await whoHolds(port)
  assert.equal(report.holders[0].processes[0].pid, process.pid)
  await assert.rejects(checkFree(port), error => {
    assert(error instanceof names.PortInUseError)
    assert.match(error.message, new RegExp(`\\(pid ${process.pid}\\) listens on 127.0.0.1:${port}`))
    return true
  })
  server.close()
  await checkFree(port, { wait: 60_000 })
})

test('a wait ends when the server listens, or when the time is up', async () => {
  const { port } = await reserve()
  await assert.rejects(waitListening(port, { timeout: 50 }), names.NotListeningError)
  const waiting = waitListening(port, { pid: process.pid, timeout: 120_000 })
  const server = await listen(port)
  await waiting
  server.close()
})

test('a bad port, and a bad duration, are errors that name them', async () => {
  for (const port of [0, 65536, 'x']) {
    await assert.rejects(checkFree(port), new RegExp(String(port)))
    await assert.rejects(reserve({ port }), new RegExp(String(port)))
  }
  for (const wait of [-1, NaN, Infinity]) {
    await assert.rejects(reserve({ wait }), new RegExp(`RangeError.*${wait}`))
  }
})

test('require and import give the same module, in step with the command', async () => {
  const require = createRequire(import.meta.url)
  assert.equal(require('portlease'), portlease)
  assert.deepEqual(Object.keys(portlease).sort(), Object.keys(names).filter(n => n !== 'default'))
  const { version } = require('portlease/package.json')
  assert.equal((await output(findCommand(), ['--version'])).stdout, `portlease ${version}\n`)
})

test('the command is linked statically', () => {
  const program = readFileSync(findCommand())
  assert.equal(program.subarray(1, 4).toString(), 'ELF')
  assert(!program.includes('/ld-linux') && !program.includes('/ld-musl'))
})

test('a worker thread reserves a number for its process', async () => {
  const code = `require('portlease').reserve().then(({ port }) =>
    require('node:worker_threads').parentPort.postMessage(port))`
  const worker = new Worker(code, { eval: true })
  const [[port]] = await Promise.all([once(worker, 'message'), once(worker, 'exit')])
  assert(await isReserved(port), 'the process goes on, and has the port')
})

test('a reservation keeps no handle open and no zombie, and ends with its process', async () => {
  const print = `import { readdirSync, readFileSync } from 'node:fs'
    const { port } = await (await import('portlease')).reserve()
    const children = readFileSync('/proc/self/task/' + process.pid + '/children', 'utf8')
    console.log(port, JSON.stringify(children))`
  const run = ['--input-type=module', '--eval', print]
  const ended = await output(process.execPath, run)
  assert.match(ended.stdout, /^\d+ ""\n$/, ended.stderr)
  assert.equal(ended.code, 0)

  const holder = spawn(process.execPath, [...run.slice(0, 2), print + '; setInterval(() => {}, 1)'])
  const port = Number.parseInt(String((await once(holder.stdout, 'data'))[0]))
  assert(await isReserved(port))
  holder.kill('SIGKILL')
  await until(async () => !await isReserved(port), `${port} is released`)
})
