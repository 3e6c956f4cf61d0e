'use strict'

const { spawn } = require('node:child_process')
const path = require('node:path')
const { findCommand } = require('./command.cjs')

class PortleaseError extends Error {
  name = 'PortleaseError'
}

class PortInUseError extends PortleaseError {
  name = 'PortInUseError'
}

class NotListeningError extends PortleaseError {
  name = 'NotListeningError'
}

/** Runs the command. Rejects on an exit code outside `answers`. */
function run (args, answers = [0]) {
  return new Promise((resolve, reject) => {
    const child = spawn(findCommand(), ['--color=never', ...args], {
      stdio: ['ignore', 'pipe', 'pipe']
    })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', text => { stdout += text })
    child.stderr.setEncoding('utf8').on('data', text => { stderr += text })
    child.on('error', cause => {
      reject(new PortleaseError(`cannot run ${child.spawnfile}: ${cause.message}`, { cause }))
    })
    child.on('close', (code, signal) => {
      if (answers.includes(code)) {
        resolve({ code, stdout: stdout.trim() })
        return
      }
      const lines = [stderr.trim().replace(/^portlease: /, ''), stdout.trim()].filter(Boolean)
      const end = signal ?? `exit code ${code}`
      lines.push(...lines.length === 0 ? [`the command portlease ended with ${end}`] : [])
      reject(new PortleaseError(lines.join('\n')))
    })
  })
}

function duration (milliseconds) {
  if (!Number.isFinite(milliseconds) || milliseconds < 0) {
    throw new RangeError(`expected a duration in milliseconds, not ${milliseconds}`)
  }
  return `${Math.round(milliseconds)}ms`
}

class Reservation {
  #released

  constructor (row) {
    this.port = row.port
    this.protocol = row.protocols[0]
    this.guarantee = row.guarantee
    this.firstChoice = row.first_choice ?? undefined
  }

  release () {
    this.#released ??= run(['release', `${this.port}/${this.protocol}`]).then(() => {})
    return this.#released
  }

  [Symbol.asyncDispose] () {
    return this.release()
  }
}

/** The file that node runs, which is the test file under `node --test`. */
function mainFile () {
  const file = path.relative('', process.argv[1] ?? '')
  return file.startsWith('..') || file.includes('node_modules') ? undefined : file
}

async function reserveMany (count, options = {}) {
  const { port, name, udp = false, block = false, reuseAddr = true, wait } = options
  const label = options.label || mainFile()
  const args = ['reserve', '--json', `--count=${count}`, `--pid=${process.pid}`]
  if (port !== undefined) args.push(`--port=${port}`)
  if (name !== undefined) args.push(`--name=${name}`)
  if (udp) args.push('--udp')
  if (block) args.push('--block')
  if (!reuseAddr) args.push('--no-reuse-addr')
  if (wait !== undefined) args.push(`--wait=${duration(wait)}`)
  if (label) args.push(`--label=${label}`)
  const answer = JSON.parse((await run(args)).stdout)
  return answer.ports.map(row => new Reservation(row))
}

async function reserve (options) {
  return (await reserveMany(1, options))[0]
}

function named (name, options = {}) {
  return reserve({ ...options, name })
}

async function whoHolds (port) {
  return JSON.parse((await run(['who', '--json', String(Number(port))], [0, 1, 3])).stdout)
}

async function checkFree (ports, options = {}) {
  const args = [ports].flat().map(String)
  if (options.reuseAddr === false) args.push('--no-reuse-addr')
  if (options.wait !== undefined) args.push(`--wait=${duration(options.wait)}`)
  const { code, stdout } = await run(['check', ...args], [0, 1])
  if (code === 1) throw new PortInUseError(stdout)
}

async function waitListening (ports, options = {}) {
  const { timeout = 30_000, pid } = options
  const args = [`--timeout=${duration(timeout)}`, ...[ports].flat().map(String)]
  if (pid !== undefined) args.push(`--pid=${pid}`)
  const { code, stdout } = await run(['wait', '--listening', ...args], [0, 1])
  if (code === 1) throw new NotListeningError(stdout)
}

module.exports = {
  NotListeningError,
  PortInUseError,
  PortleaseError,
  Reservation,
  checkFree,
  findCommand,
  named,
  reserve,
  reserveMany,
  waitListening,
  whoHolds
}
