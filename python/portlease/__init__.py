"""Reserves ports that stay free for the test that asked, checks that ports are free, and reports
who holds a port that is not free.

    with portlease.reserve() as reserved:
        server = subprocess.Popen(["my-server", "--port", str(reserved.port)])
        portlease.wait_listening(reserved.port, pid=server.pid)

A reservation lasts until it is released, or until the process that asked for it ends. This module
starts the command `portlease`, which the package installs. The fixtures for pytest are in
`portlease.pytest_plugin`.
"""

from importlib.metadata import version as _version

from portlease._command import Error, find_command
from portlease._question import (
    Holder,
    Lease,
    NotListening,
    Port,
    PortInUse,
    Process,
    Report,
    check_free,
    wait_listening,
    who_holds,
)
from portlease._reservation import Reservation, named, reserve, reserve_many, reserve_udp

__version__ = _version("portlease")

__all__ = [
    "Error",
    "Holder",
    "Lease",
    "NotListening",
    "Port",
    "PortInUse",
    "Process",
    "Report",
    "Reservation",
    "check_free",
    "find_command",
    "named",
    "reserve",
    "reserve_many",
    "reserve_udp",
    "wait_listening",
    "who_holds",
]
