#!/usr/bin/env node
'use strict'

// Runs the command with the arguments of this script, and exits with its exit code or by the same
// signal.

const { spawn } = require('node:child_process')
const { constants } = require('node:os')
const { findCommand } = require('../command.cjs')

const FAILED = 2

function main (args) {
  const at = args.findIndex((arg, n) => !arg.startsWith('-') && args[n - 1] !== '--color')
  const names = args.slice(at).some(arg => /^(--pid\b|--help$|-h$)/.test(arg))
  if (args[at] === 'reserve' && !names) {
    // Without --pid the reservation would last as long as this process, which ends at once.
    return fail('cannot reserve for the calling shell through npm: pass --pid $$')
  }
  const child = spawn(findCommand(), args, { stdio: 'inherit' })
  // SIGINT and SIGQUIT are not passed on, because a terminal sends them to the child as well. The
  // child would get them twice.
  for (const signal of ['SIGINT', 'SIGQUIT']) process.on(signal, () => {})
  for (const signal of ['SIGHUP', 'SIGTERM', 'SIGUSR2']) {
    process.on(signal, () => child.kill(signal))
  }
  child.on('error', error => fail(`cannot run ${child.spawnfile}: ${error.message}`))
  child.on('exit', (code, signal) => {
    if (signal === null) {
      process.exitCode = code
      return
    }
    // Node ignores some signals, such as SIGPIPE. The exit code then says what happened.
    process.exitCode = 128 + constants.signals[signal]
    process.removeAllListeners(signal)
    process.kill(process.pid, signal)
  })
}

function fail (message) {
  console.error(`portlease: ${message}`)
  process.exitCode = FAILED
}

try {
  main(process.argv.slice(2))
} catch (error) {
  fail(error.message)
}
