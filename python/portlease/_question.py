"""Questions about ports: `who_holds`, `check_free`, `wait_listening`."""

import json
from typing import List, Optional, TypedDict, Union, cast

from portlease._command import Error, duration, run

Port = Union[int, str]
"""A number, or a text as the command takes it: `"53/udp"`, `"127.0.0.1:8080"`, `"8000-8010"`."""


class Process(TypedDict):
    """A process that owns a socket. `None` means unknown."""

    pid: int
    name: str
    program: Optional[str]
    parent: Optional[int]
    uid: Optional[int]
    user: Optional[str]
    started: Optional[str]
    state: str
    ignores_sigterm: bool
    working_directory: Optional[str]
    unit: Optional[str]
    container: Optional[str]
    relation: Optional[str]


class Holder(TypedDict):
    """A socket on the port, with the processes that own it."""

    protocol: str
    local: str
    remote: Optional[str]
    state: str
    uid: Optional[int]
    user: Optional[str]
    hidden: bool
    client: bool
    interface: Optional[str]
    shared: bool
    owner: str
    processes: List[Process]


class Lease(TypedDict):
    """A reservation of the port, by any process."""

    protocol: str
    port: int
    pid: Optional[int]
    foreign: bool
    inherited_by: List[int]
    on_behalf_of: Optional[int]
    on_behalf_of_name: Optional[str]
    program: Optional[str]
    command: Optional[str]
    working_directory: Optional[str]
    test: Optional[str]
    at: Optional[str]
    label: Optional[str]
    name: Optional[str]
    first_choice: Optional[int]
    since: Optional[str]


class Report(TypedDict):
    """The answer of `who_holds`. `complete` is false if something could not be read.

    `unseen` then says what. A later version may add keys.
    """

    version: int
    port: int
    complete: bool
    unseen: List[str]
    holders: List[Holder]
    leases: List[Lease]


class PortInUse(Error):
    """A port is not free. The text names the holder, and what to do."""


class NotListening(Error, TimeoutError):
    """No server listened on the port in time. The text says what was found instead."""


def who_holds(port: int) -> Report:
    """Returns the sockets on a port in every state, with their processes, and the reservations."""
    answer = run("who", "--json", str(int(port)), answers=(0, 1, 3))
    return cast(Report, json.loads(answer.stdout))


def check_free(*ports: Port, reuse_addr: bool = True, wait: Optional[float] = None) -> None:
    """Checks that all ports are free: a server could bind them now, and no other process has
    reserved them. A reservation of this process, or of one that started it, does not count.

    Waits up to `wait` seconds for the ports to be free. Raises `PortInUse` if a port is not free,
    and `Error` if that could not be determined.
    """
    options = [] if wait is None else [f"--wait={duration(wait)}"]
    options += ["--no-reuse-addr"] * (not reuse_addr)
    answer = run("check", *options, *map(str, ports), answers=(0, 1))
    if answer.returncode == 1:
        raise PortInUse(answer.stdout.strip())


def wait_listening(*ports: Port, timeout: float = 30.0, pid: Optional[int] = None) -> None:
    """Waits until a server listens on each port, for up to `timeout` seconds.

    Raises `NotListening` when the time is up. With `pid`, only a listener of that process or of
    one that it started counts. If that process ends first, raises `Error`.
    """
    options = [f"--timeout={duration(timeout)}"]
    if pid is not None:
        options.append(f"--pid={pid}")
    answer = run("wait", "--listening", *options, *map(str, ports), answers=(0, 1))
    if answer.returncode == 1:
        raise NotListening(answer.stdout.strip())
