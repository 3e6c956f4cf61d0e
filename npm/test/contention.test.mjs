// Eight test files of `node --test`, 300 ephemeral ports, and a neighbour that draws them.
import assert from 'node:assert/strict'
import { appendFileSync, mkdtempSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { output } from './support.mjs'

const HERE = fileURLToPath(new URL('contention', import.meta.url))
const ROUNDS = Number(process.env.PORTLEASE_CONTENTION_TESTS ?? 200) / 8
const IN_NAMESPACE = `ip link set lo up
echo 33000 33299 >/proc/sys/net/ipv4/ip_local_port_range
`
// The neighbour ends when its stdin is closed. It then writes how many ports it has drawn to a
// file.
const BESIDE_NEIGHBOUR = `mkfifo stdin
node "$HERE/neighbour.mjs" <stdin >drawn &
exec 3>stdin
status=0
node --test --test-concurrency=8 --test-reporter=tap ./*.test.mjs || status=$?
exec 3>&-
wait
cat drawn
exit "$status"
`

async function inNamespace (script, options) {
  return output('unshare', ['--net', 'sh', '-ec', IN_NAMESPACE + script], options)
}

async function lost (env) {
  const folder = mkdtempSync(path.join(process.cwd(), 'contention-'))
  for (let n = 0; n < 8; n += 1) {
    const code = `import { rounds } from ${JSON.stringify(HERE + '/round.mjs')}\nrounds()\n`
    writeFileSync(path.join(folder, `n${n}.test.mjs`), code)
  }
  const all = { ...process.env, HERE, CONTENTION_ROUNDS: String(ROUNDS), ...env }
  // The outer `node --test` sets this variable. With it, the inner one would run no file.
  delete all.NODE_TEST_CONTEXT
  const { code, stdout, stderr } = await inNamespace(BESIDE_NEIGHBOUR, { cwd: folder, env: all })
  const counts = [...stdout.matchAll(/rounds (\d+) lost (\d+)/g)]
  assert.deepEqual([code, counts.length], [0, 8], stdout + stderr)
  const sum = index => counts.reduce((total, count) => total + Number(count[index]), 0)
  const drawn = Number(stdout.trim().split('\n').at(-1))
  console.log(`${JSON.stringify(env)}: ${sum(2)} of ${sum(1)} lost, the neighbour drew ${drawn}`)
  return { lost: sum(2), drawn }
}

test('no worker loses its number', async context => {
  if ((await inNamespace('true')).code !== 0) {
    const line = `skipped: npm-contention: no network namespace\n`
    if (process.env.PORTLEASE_SKIPS) appendFileSync(process.env.PORTLEASE_SKIPS, line)
    context.skip(line)
    return
  }
  const reserved = await lost({})
  assert.equal(reserved.lost, 0)
  assert(reserved.drawn > ROUNDS * 8)
  const control = await lost({ CONTENTION_CONTROL: '1' })
  assert(control.lost > 0, 'the control: bind(0) loses')
})
