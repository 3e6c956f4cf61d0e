// node's own runner under the command: portlease run --port APP_PORT --port DOWN_PORT -- node --test

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { connect } from "node:net";
import { test } from "node:test";

// The numbers are reserved as long as the command runs, and the servers may come and go.
const { APP_PORT, DOWN_PORT } = process.env;

test("the server is started again on its number", async () => {
  for (let start = 0; start < 3; start++) {
    const server = createServer((_request, response) => response.end("hello"));
    await once(server.listen(Number(APP_PORT), "127.0.0.1"), "listening");
    const answer = await fetch(`http://127.0.0.1:${APP_PORT}/`, { headers: { connection: "close" } });
    assert.equal(await answer.text(), "hello");
    server.closeAllConnections();
    await once(server.close(), "close");
  }
});

test("a reserved number refuses while nothing listens", async () => {
  const [error] = await once(connect(Number(DOWN_PORT), "127.0.0.1"), "error").catch((e) => [e]);
  assert.equal(error.code, "ECONNREFUSED");
});

test("a number in the middle of a program is kept until it ends", () => {
  const port = Number(execFileSync("portlease", ["reserve", "--pid", process.pid]));
  assert.match(execFileSync("portlease", ["list", "--json"], { encoding: "utf8" }), new RegExp(`"port":${port},`));
});
