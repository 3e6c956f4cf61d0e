//! Processes and sockets that know nothing of the crate.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::{self, Child, Launch, Words};

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
pub(crate) const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// `bind`, with every option set explicitly; `[::]` serves IPv4 too. As everywhere else, SO_REUSEADDR is not for Windows:
/// there it takes a port from whoever listens on it.
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

/// Closes by RST: nothing stays behind in TIME_WAIT.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// The role of a server by number, as the user of a reserved port starts it: `port=N`. It greets whoever connects.
pub(crate) fn serve(words: &Words) {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, words.number("port").unwrap())) {
        Ok(listener) => listener,
        Err(e) => return support::say(&format!("refused {e}")),
    };
    support::say("up");
    // Connections stay open until the process ends, however it does.
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream
                .write_all(format!("{}\n", std::process::id()).as_bytes())
                .unwrap();
            open.push(stream);
        }
    });
    while support::listen().is_some() {}
}

/// A server by number, in a process of its own, that is up.
pub(crate) fn server(locks: &Path, port: u16) -> Child {
    let mut server = Launch::new("server", locks)
        .args(format!("port={port}"))
        .start();
    assert_eq!(server.hear(), "up");
    server
}

/// Connects, and returns the connection and the pid that greeted.
pub(crate) fn greeted(addr: SocketAddr) -> (TcpStream, u32) {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(10)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut text = String::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        text.push(char::from(byte[0]));
    }
    (stream, text.parse().unwrap())
}
