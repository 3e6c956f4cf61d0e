//! Sockets that a test binds without the crate.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// The reuse options of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    Neither,
    Address,
    #[cfg(target_os = "linux")]
    Port,
}

pub(crate) const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
pub(crate) const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
pub(crate) const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// `bind(2)` with these reuse options. `[::]` serves IPv4 too.
///
/// On Windows the socket never has SO_REUSEADDR: there the option takes a port from a process that
/// listens on it.
pub(crate) fn bind(ip: IpAddr, port: u16, reuse: Reuse) -> io::Result<Socket> {
    let socket = Socket::new(
        if ip.is_ipv4() {
            Domain::IPV4
        } else {
            Domain::IPV6
        },
        Type::STREAM,
        None,
    )?;
    if ip.is_ipv6() {
        socket.set_only_v6(ip != ANY_V6)?;
    }
    match reuse {
        Reuse::Neither => {}
        Reuse::Address => socket.set_reuse_address(cfg!(unix))?,
        #[cfg(target_os = "linux")]
        Reuse::Port => socket.set_reuse_port(true)?,
    }
    socket.bind(&SocketAddr::new(ip, port).into())?;
    Ok(socket)
}

pub(crate) fn port_of(socket: &Socket) -> u16 {
    socket.local_addr().unwrap().as_socket().unwrap().port()
}

/// Makes `stream` close by RST, which leaves nothing in TIME_WAIT.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// Connects to `server` and closes the server's side first, which leaves the connection in
/// TIME_WAIT on the server's port.
pub(crate) fn leave_time_wait(server: &TcpListener) {
    let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    drop(server.accept().unwrap());
    // The end of the stream: the server's side has closed.
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
}

/// Connects clients to `server` and closes the clients' sides first, which leaves their source
/// ports in TIME_WAIT. Returns these ports: `count` of them, or fewer if the kernel has no other
/// number.
pub(crate) fn leave_clients_in_time_wait(server: &TcpListener, count: usize) -> BTreeSet<u16> {
    let mut sources = BTreeSet::new();
    while sources.len() < count {
        let Ok(client) = TcpStream::connect(server.local_addr().unwrap()) else {
            break;
        };
        sources.insert(client.local_addr().unwrap().port());
        let (mut accepted, _) = server.accept().unwrap();
        drop(client);
        assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
    }
    sources
}
