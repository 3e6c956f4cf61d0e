import { defineConfig } from '@playwright/test'
import { reserve } from 'portlease'

// The runner evaluates this file first, and each worker evaluates it again. The environment
// passes the number on to them. It is reserved until the runner ends.
process.env.APP_PORT ??= String((await reserve({ label: 'APP_PORT' })).port)
const url = `http://127.0.0.1:${process.env.APP_PORT}`

export default defineConfig({
  fullyParallel: true,
  workers: 4,
  use: { baseURL: url },
  webServer: { command: `node server.mjs ${process.env.APP_PORT}`, url, reuseExistingServer: false }
})
