"""The pytest plugin. pytest loads it if the package is installed.

Each number is reserved for the process that runs the test, so the workers of pytest-xdist never
get the same one. `portlease list` shows the name of the test beside the number.
"""

import os
from typing import Iterator, List, Optional

import pytest

import portlease


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("portlease", "ports reserved by portlease")
    group.addoption(
        "--portlease-leaks",
        choices=("ignore", "fail"),
        help="What to do if a port is still in use when its fixture ends: ignore it (the default), "
        "or fail the test and name the process",
    )
    group.addoption(
        "--portlease-unused-ports",
        action="store_true",
        help="Reserve the ports of pytest-asyncio's fixtures unused_tcp_port, unused_udp_port and "
        "their factories",
    )
    parser.addini("portlease_leaks", "The default of --portlease-leaks", default="ignore")
    parser.addini(
        "portlease_unused_ports",
        "The default of --portlease-unused-ports",
        type="bool",
        default=False,
    )


def _fail_on_leaks(config: pytest.Config) -> bool:
    choice = config.getoption("--portlease-leaks") or config.getini("portlease_leaks")
    if choice not in ("ignore", "fail"):
        raise pytest.UsageError(f"portlease_leaks: expected ignore or fail, not {choice!r}")
    return bool(choice == "fail")


def pytest_configure(config: pytest.Config) -> None:
    _fail_on_leaks(config)
    if config.getoption("--portlease-unused-ports") or config.getini("portlease_unused_ports"):
        # If two plugins define a fixture, pytest uses that of the plugin that was registered last.
        # pytest-asyncio is registered before this function runs.
        config.pluginmanager.import_plugin("portlease._unused_ports")


class ReservedPortFactory:
    """Reserves a port at each call. All these ports stay reserved until the fixture ends."""

    def __init__(self, fail_on_leaks: bool, *, udp: bool = False, label: str = "") -> None:
        self._fail_on_leaks = fail_on_leaks
        self._udp = udp
        self._label = label
        self._held: List[portlease.Reservation] = []

    def __call__(self, *, reuse_addr: bool = True) -> int:
        """Reserves a port. Pass `reuse_addr=False` for a server that does not set SO_REUSEADDR."""
        label = self._label or None
        if self._udp:
            reserved = portlease.reserve_udp(label=label)
        else:
            reserved = portlease.reserve(reuse_addr=reuse_addr, label=label)
        self._held.append(reserved)
        return reserved.port

    def _release(self) -> None:
        leaks, errors = [], []
        while self._held:
            reserved = self._held.pop()
            try:
                if self._fail_on_leaks:
                    portlease.check_free(f"{reserved.port}/{reserved.protocol}")
            except portlease.PortInUse as leak:
                leaks.append(str(leak))
            except portlease.Error as error:
                errors.append(str(error))
            try:
                reserved.release()
            except portlease.Error as error:
                errors.append(str(error))
        if leaks:
            what = "a reserved port is still in use at the end of its fixture"
            leaks.insert(0, f"{what}; stop its server before the test ends")
        if leaks or errors:
            pytest.fail("\n".join(leaks + errors), pytrace=False)


def _session_label(config: pytest.Config) -> str:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    return f"session of {config.rootpath.name}" + (f", worker {worker}" if worker else "")


def _factory(
    request: pytest.FixtureRequest, udp: bool = False, label: str = ""
) -> Iterator[ReservedPortFactory]:
    factory = ReservedPortFactory(_fail_on_leaks(request.config), udp=udp, label=label)
    yield factory
    factory._release()


def _port(request: pytest.FixtureRequest, udp: bool, label: Optional[str] = None) -> Iterator[int]:
    for factory in _factory(request, udp, label or request.node.nodeid):
        yield factory()


@pytest.fixture
def reserved_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A TCP port that is reserved for this test."""
    yield from _port(request, udp=False)


@pytest.fixture
def reserved_udp_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A UDP port that is reserved for this test."""
    yield from _port(request, udp=True)


@pytest.fixture(scope="session")
def session_reserved_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A TCP port that is reserved for the session. Each pytest-xdist worker has its own."""
    yield from _port(request, False, _session_label(request.config))


@pytest.fixture(scope="session")
def session_reserved_udp_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A UDP port that is reserved for the session. Each pytest-xdist worker has its own."""
    yield from _port(request, True, _session_label(request.config))


@pytest.fixture(scope="session")
def reserved_port_factory(request: pytest.FixtureRequest) -> Iterator[ReservedPortFactory]:
    """Reserves a TCP port at each call. It stays reserved until the session ends."""
    yield from _factory(request)


@pytest.fixture(scope="session")
def reserved_udp_port_factory(request: pytest.FixtureRequest) -> Iterator[ReservedPortFactory]:
    """Reserves a UDP port at each call. It stays reserved until the session ends."""
    yield from _factory(request, udp=True)
