//! The sockets of the facts: claims, servers, clients, and binds with each set of options.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// The options that a program sets before its bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) reuse_addr: bool,
    pub(crate) reuse_port: bool,
}

impl Options {
    pub(crate) const NONE: Options = Options::new(false, false);
    pub(crate) const REUSE_ADDR: Options = Options::new(true, false);
    pub(crate) const REUSE_PORT: Options = Options::new(false, true);
    pub(crate) const BOTH: Options = Options::new(true, true);
    pub(crate) const ALL: [Options; 4] = [
        Options::NONE,
        Options::REUSE_ADDR,
        Options::REUSE_PORT,
        Options::BOTH,
    ];

    const fn new(reuse_addr: bool, reuse_port: bool) -> Options {
        Options {
            reuse_addr,
            reuse_port,
        }
    }

    fn set(self, socket: &Socket) -> io::Result<()> {
        socket.set_reuse_address(self.reuse_addr)?;
        socket.set_reuse_port(self.reuse_port)
    }
}

/// An address to bind. `[::]` serves IPv4 too, unless `only_v6` is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) name: &'static str,
    ip: IpAddr,
    only_v6: bool,
}

const fn v4(name: &'static str, ip: Ipv4Addr) -> Address {
    Address {
        name,
        ip: IpAddr::V4(ip),
        only_v6: false,
    }
}

const fn v6(name: &'static str, ip: Ipv6Addr, only_v6: bool) -> Address {
    Address {
        name,
        ip: IpAddr::V6(ip),
        only_v6,
    }
}

const LOOPBACK: Address = v4("127.0.0.1", Ipv4Addr::LOCALHOST);
const ANY: Address = v4("0.0.0.0", Ipv4Addr::UNSPECIFIED);
const OF_IPV4: [Address; 3] = [LOOPBACK, v4("127.0.0.2", Ipv4Addr::new(127, 0, 0, 2)), ANY];
const ANY_OF_BOTH: Address = v6("[::]", Ipv6Addr::UNSPECIFIED, false);
const OF_IPV6: [Address; 3] = [
    v6("[::1]", Ipv6Addr::LOCALHOST, false),
    v6("[::] for IPv6 only", Ipv6Addr::UNSPECIFIED, true),
    ANY_OF_BOTH,
];

/// The addresses that this machine has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Families {
    pub(crate) has_ipv6: bool,
}

impl Families {
    pub(crate) fn of_this_machine() -> Families {
        Families {
            has_ipv6: bound(OF_IPV6[0], 0, Options::NONE).is_ok(),
        }
    }

    pub(crate) fn addresses(self) -> impl Iterator<Item = Address> {
        let of_ipv6 = if self.has_ipv6 { &OF_IPV6[..] } else { &[] };
        OF_IPV4.into_iter().chain(of_ipv6.iter().copied())
    }

    /// The addresses that a client can connect to.
    pub(crate) fn loopbacks(self) -> impl Iterator<Item = Address> {
        let of_ipv6 = self.has_ipv6.then_some(OF_IPV6[0]);
        [LOOPBACK].into_iter().chain(of_ipv6)
    }

    pub(crate) fn claim(self, port: u16) -> io::Result<Socket> {
        let address = if self.has_ipv6 { ANY_OF_BOTH } else { ANY };
        let claim = bound(address, port, Options::NONE)?;
        Options::BOTH.set(&claim)?;
        Ok(claim)
    }

    /// Binds the port on every address, with these options and without listening.
    pub(crate) fn hold(self, port: u16, options: Options) -> io::Result<Socket> {
        let address = if self.has_ipv6 { ANY_OF_BOTH } else { ANY };
        bound(address, port, options)
    }
}

pub(crate) fn unbound(address: Address, options: Options) -> io::Result<Socket> {
    let family = Domain::for_address(SocketAddr::new(address.ip, 0));
    let socket = Socket::new(family, Type::STREAM, None)?;
    if address.ip.is_ipv6() {
        socket.set_only_v6(address.only_v6)?;
    }
    options.set(&socket)?;
    Ok(socket)
}

pub(crate) fn bound(address: Address, port: u16, options: Options) -> io::Result<Socket> {
    let socket = unbound(address, options)?;
    socket.bind(&SocketAddr::new(address.ip, port).into())?;
    Ok(socket)
}

pub(crate) fn listening(address: Address, port: u16, options: Options) -> io::Result<Socket> {
    let socket = bound(address, port, options)?;
    socket.listen(16)?;
    Ok(socket)
}

pub(crate) fn connect(socket: &Socket, address: Address, port: u16) -> io::Result<()> {
    socket.connect(&SocketAddr::new(address.ip, port).into())
}

pub(crate) fn port_of(socket: &Socket) -> io::Result<u16> {
    let addr = socket.local_addr()?.as_socket();
    addr.map(|addr| addr.port())
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Makes a close send RST, so that no TIME_WAIT is left.
pub(crate) fn close_hard(socket: &Socket) -> io::Result<()> {
    socket.set_linger(Some(Duration::ZERO))
}

/// Which end of a connection closes first, and so goes through TIME_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    Server,
    Client,
}

/// Serves one connection on the port, and stops.
pub(crate) fn serve_once(
    address: Address,
    port: u16,
    options: Options,
    first: First,
) -> io::Result<()> {
    let server = listening(address, port, options)?;
    let client = unbound(address, Options::NONE)?;
    connect(&client, address, port)?;
    let (connection, _) = server.accept()?;
    let (closes, follows) = match first {
        First::Server => (connection, client),
        First::Client => (client, connection),
    };
    drop(closes);
    // The read returns once the other end has closed, because nothing was sent.
    let _end = (&follows).read(&mut [0])?;
    drop(follows);
    Ok(())
}

/// The same address for a server and its client.
pub(crate) const SERVED: Address = LOOPBACK;
