"""Reservations: `reserve` and its relatives."""

import json
import os
from types import TracebackType
from typing import List, Optional, Tuple, Type

from portlease._command import Error, duration, run


class Reservation:
    """A reserved port. It stays reserved until `release()`, or until this process ends.

    A `with` block releases the port at its end. A forked child has a copy of this object, but the
    port belongs to the process that reserved it. So `release()` has no effect in the child.
    """

    port: int
    """The number."""
    protocol: str
    """`tcp` or `udp`."""
    guarantee: str
    """The guarantee level: `kernel`, `cooperative` or `best_effort`."""
    first_choice: Optional[int]
    """For `named`, the usual number of the name. `port` differs if that number was in use."""

    def __init__(
        self,
        port: int,
        protocol: str,
        guarantee: str,
        keeper: int,
        first_choice: Optional[int] = None,
    ) -> None:
        self.port = port
        self.protocol = protocol
        self.guarantee = guarantee
        self.first_choice = first_choice
        self._keeper = keeper
        self._owner = os.getpid()
        self._released = False
        # All reservations of the same call. One keeper, a small process, holds them.
        self._siblings: Tuple[Reservation, ...] = (self,)

    def release(self) -> None:
        """Releases the port. A second call and a call in a forked child have no effect.

        Raises `Error` if the port is no longer reserved.
        """
        if self._released or self._owner != os.getpid():
            return
        self._released = True
        run("release", f"{self.port}/{self.protocol}")
        if all(reservation._released for reservation in self._siblings):
            _reap(self._keeper)

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        state = ", released" if self._released else ""
        return f"<portlease.Reservation {self.port}/{self.protocol}, {self.guarantee}{state}>"


def _reap(keeper: int) -> None:
    """Reaps a keeper that holds no port any more, if this process is pid 1 of a container.

    If it is not, another process adopts and reaps the keeper.
    """
    try:
        os.waitpid(keeper, 0)
    except ChildProcessError:
        pass


def reserve(
    *,
    port: Optional[int] = None,
    reuse_addr: bool = True,
    wait: Optional[float] = None,
    label: Optional[str] = None,
) -> Reservation:
    """Reserves a TCP port, or exactly `port`.

    Pass `reuse_addr=False` for a server that sets neither SO_REUSEADDR nor SO_REUSEPORT. If `port`
    is in use, waits up to `wait` seconds for it. Reports about the port show `label`. Under pytest
    the default of `label` is the name of the test.

    Raises `Error` if no port could be reserved. It names the holder of `port` if that is in use.
    """
    return _reserve(1, _options(port, reuse_addr, wait, label))[0]


def reserve_udp(
    *, port: Optional[int] = None, wait: Optional[float] = None, label: Optional[str] = None
) -> Reservation:
    """Reserves a UDP port, or exactly `port`. See `reserve`."""
    return _reserve(1, ["--udp", *_options(port, True, wait, label)])[0]


def reserve_many(
    count: int,
    *,
    block: bool = False,
    udp: bool = False,
    reuse_addr: bool = True,
    wait: Optional[float] = None,
    label: Optional[str] = None,
) -> List[Reservation]:
    """Reserves `count` ports or none. With `block` their numbers are consecutive.

    See `reserve`.
    """
    options = _options(None, reuse_addr, wait, label)
    options += ["--block"] * block + ["--udp"] * udp
    return _reserve(count, options)


def named(
    name: str,
    *,
    udp: bool = False,
    reuse_addr: bool = True,
    wait: Optional[float] = None,
    label: Optional[str] = None,
) -> Reservation:
    """Reserves the number of `name`, which is the same in each run.

    It depends on the user, the project (the nearest folder with `.git`, or PORTLEASE_PROJECT) and
    the name. If it is in use, another number is reserved: see `Reservation.first_choice`.
    """
    options = [f"--name={name}", *_options(None, reuse_addr, wait, label)]
    return _reserve(1, options + ["--udp"] * udp)[0]


def _options(
    port: Optional[int], reuse_addr: bool, wait: Optional[float], label: Optional[str]
) -> List[str]:
    options = []
    if port is not None:
        options.append(f"--port={port}")
    if not reuse_addr:
        options.append("--no-reuse-addr")
    if wait is not None:
        options.append(f"--wait={duration(wait)}")
    label = label or _current_test()
    if label:
        options.append(f"--label={label}")
    return options


def _current_test() -> Optional[str]:
    # pytest sets this variable to `tests/test_api.py::test_x (call)`.
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0] or None


def _reserve(count: int, options: List[str]) -> List[Reservation]:
    command = ["reserve", "--json", f"--count={count}", f"--pid={os.getpid()}", *options]
    answer = json.loads(run(*command).stdout)
    reservations = [
        Reservation(
            row["port"],
            row["protocols"][0],
            row["guarantee"],
            answer["keeper"],
            row.get("first_choice"),
        )
        for row in answer["ports"]
    ]
    if len(reservations) != count:
        raise Error(f"expected {count} ports from the command portlease, got {len(reservations)}")
    for reservation in reservations:
        reservation._siblings = tuple(reservations)
    return reservations
