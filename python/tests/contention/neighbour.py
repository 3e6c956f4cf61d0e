"""Draws ephemeral ports until its stdin is closed: it binds port 0, and connects to itself."""

import select
import socket
import struct
import sys

# The neighbour holds at most this number of the 300 ports at a time.
HELD = 60


def abort(connection: socket.socket) -> None:
    """Closes a connection without TIME_WAIT, which would use up the ports of the range."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def main() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    held = []
    drawn = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(HELD):
            bound = socket.socket()
            bound.bind(("127.0.0.1", 0))
            client = socket.create_connection(server.getsockname())
            server.accept()[0].close()
            abort(client)
            held.append(bound)
            drawn += 2
            if len(held) > HELD:
                held.pop(0).close()
    print(drawn)


main()
