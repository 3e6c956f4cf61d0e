"""Replaces the fixtures of pytest-asyncio that pick a port. These fixtures reserve the port."""

import pytest

from portlease.pytest_plugin import ReservedPortFactory


@pytest.fixture
def unused_tcp_port(reserved_port: int) -> int:
    """A TCP port that is reserved for this test."""
    return reserved_port


@pytest.fixture
def unused_udp_port(reserved_udp_port: int) -> int:
    """A UDP port that is reserved for this test."""
    return reserved_udp_port


@pytest.fixture(scope="session")
def unused_tcp_port_factory(reserved_port_factory: ReservedPortFactory) -> ReservedPortFactory:
    """Reserves a TCP port at each call. It stays reserved until the session ends."""
    return reserved_port_factory


@pytest.fixture(scope="session")
def unused_udp_port_factory(
    reserved_udp_port_factory: ReservedPortFactory,
) -> ReservedPortFactory:
    """Reserves a UDP port at each call. It stays reserved until the session ends."""
    return reserved_udp_port_factory
