"""A server that first probes its port with a plain bind, as vLLM and other ML servers do.

If the probe fails, it takes the next number instead: a reservation that other processes cannot
bind over is in its way. So reserve with --no-reuse-addr:

    portlease run --no-reuse-addr --port PORT -- python3 probing_server.py
"""

import os
import socket

port = int(os.environ["PORT"])
while True:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
            break
        except OSError:
            port += 1
server = socket.create_server(("127.0.0.1", port))
print(f"asked for {os.environ['PORT']}, serving on {server.getsockname()[1]}")
