// Run it with: portlease run --port APP_PORT --port DOWN_PORT -- node --test

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { connect } from "node:net";
import { test } from "node:test";

// The ports stay reserved while `portlease run` runs, so servers can stop and start again.
const { APP_PORT, DOWN_PORT } = process.env;

test("the server is started again on its number", async () => {
  for (let start = 0; start < 3; start++) {
    const server = createServer((_request, response) => response.end("hello"));
    await once(server.listen(Number(APP_PORT), "127.0.0.1"), "listening");
    const url = `http://127.0.0.1:${APP_PORT}/`;
    const answer = await fetch(url, { headers: { connection: "close" } });
    assert.equal(await answer.text(), "hello");
    server.closeAllConnections();
    await once(server.close(), "close");
  }
});

test("a reserved number refuses while nothing listens", async () => {
  const [error] = await once(connect(Number(DOWN_PORT), "127.0.0.1"), "error").catch((e) => [e]);
  assert.equal(error.code, "ECONNREFUSED");
});

test("a port reserved in mid-program is held until the program ends", () => {
  const port = Number(execFileSync("portlease", ["reserve", "--pid", process.pid]));
  const list = execFileSync("portlease", ["list", "--json"], { encoding: "utf8" });
  assert.match(list, new RegExp(`"port":${port},`));
});
