"""Tests that each start a server by number, twice, and check who answers.

The environment names the fixture that picks the number, and how many tests there are.
"""

import errno
import os
import socket
import struct
import time

import pytest

FIXTURE = os.environ["CONTENTION_FIXTURE"]
TESTS = int(os.environ["CONTENTION_TESTS"])
SCOPES = 40
# How long a server takes to start: the time between the pick of the number and the bind.
START_SECONDS = 0.02


def serve_once(port: int, word: bytes) -> bytes:
    abort = struct.pack("ii", 1, 0)  # A reset leaves no TIME_WAIT.
    with socket.create_server(("127.0.0.1", port)) as server:
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            with accepted:
                accepted.sendall(word)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
            return client.recv(100)


class Scope:
    """The base of the classes below. With --dist loadscope one worker runs all tests of a class."""

    @pytest.mark.parametrize("n", range(TESTS // SCOPES))
    def test_a_server_starts_twice_on_its_number(
        self, request: pytest.FixtureRequest, n: int
    ) -> None:
        port = request.getfixturevalue(FIXTURE)
        word = f"{os.getpid()} {n}".encode()
        for _ in range(2):
            time.sleep(START_SECONDS)
            try:
                answer = serve_once(port, word)
            except OSError as error:
                assert error.errno in (errno.EADDRINUSE, errno.ECONNREFUSED, errno.ECONNRESET)
                pytest.fail("lost: " + os.strerror(error.errno), pytrace=False)
            if answer != word:
                pytest.fail("lost: another server answered", pytrace=False)


for scope in range(SCOPES):
    globals()[f"TestScope{scope}"] = type(f"TestScope{scope}", (Scope,), {})
