//! The load of a machine that runs tests: servers that are started by port number, and neighbours
//! that do not know of any reservation.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// A round: start a server, serve one client, stop; and the same again on the same port.
pub(crate) fn boot_twice(
    port: u16,
    serve_once: impl Fn(u16) -> Result<(), String>,
) -> Result<(), String> {
    // Stands for the work of a server before it binds.
    std::thread::sleep(Duration::from_micros(fastrand::u64(0..3000)));
    serve_once(port).map_err(|e| format!("{port}, first start: {e}"))?;
    std::thread::sleep(Duration::from_micros(fastrand::u64(0..300)));
    serve_once(port).map_err(|e| format!("{port}, second start: {e}"))
}

/// Locked for writing while a forked child has not called exec yet. The child shares the sockets of
/// this process: a listener that is closed meanwhile would still exist, and refuse the second start
/// however the port was picked. Reserving and releasing do not take this lock, so they run beside
/// the forks.
pub(crate) static SERVING: RwLock<()> = RwLock::new(());

/// Starts a server by port number, lets a client reach it, and stops it.
pub(crate) fn serve_tcp_once(port: u16, reuse_address: bool) -> Result<(), String> {
    let _no_fork = SERVING.read().unwrap();
    let at = |step: &'static str| move |e: io::Error| format!("{step}: {e}");
    let server = bound(port, reuse_address).map_err(at("bind"))?;
    server.listen(128).map_err(at("listen"))?;
    let server = TcpListener::from(server);
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut client =
        TcpStream::connect_timeout(&addr, Duration::from_secs(10)).map_err(at("connect"))?;
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .map_err(at("connect"))?;
    // RST instead of TIME_WAIT, which would use up the range.
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .map_err(at("connect"))?;
    let ours = client.local_addr().map_err(at("connect"))?;
    server.set_nonblocking(true).map_err(at("accept"))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut stream = loop {
        match server.accept() {
            Ok((stream, peer)) if peer == ours => break stream,
            // It is the client of another server, which lost the port to this one.
            Ok(_) => return Err("accept: another client connected".to_owned()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            Err(e) => return Err(format!("the client reached another server: {e}")),
        }
    };
    let nonce = fastrand::u64(..).to_le_bytes();
    stream.write_all(&nonce).map_err(at("write"))?;
    let mut read = [0; 8];
    client.read_exact(&mut read).map_err(at("read"))?;
    if read == nonce {
        Ok(())
    } else {
        Err("another server answered".to_owned())
    }
}

pub(crate) fn serve_udp_once(port: u16) -> Result<(), String> {
    let _no_fork = SERVING.read().unwrap();
    let at = |step: &'static str| move |e: io::Error| format!("{step}: {e}");
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).map_err(at("bind"))?;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(at("client"))?;
    for socket in [&server, &client] {
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .map_err(at("read"))?;
    }
    let nonce = fastrand::u64(..).to_le_bytes();
    client
        .send_to(&nonce, (Ipv4Addr::LOCALHOST, port))
        .map_err(at("send"))?;
    let mut read = [0; 8];
    let (length, from) = server.recv_from(&mut read).map_err(at("receive"))?;
    let ours = client.local_addr().map_err(at("client"))?;
    if length == 8 && read == nonce && from == ours {
        Ok(())
    } else {
        Err("another client's packet".to_owned())
    }
}

pub(crate) fn bound(port: u16, reuse_address: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // On Windows the option takes the port from the process that has it.
    socket.set_reuse_address(reuse_address && cfg!(unix))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket)
}

/// A neighbour that does not use the crate. It binds port 0 in several ways and connects to its own
/// `listener`, and keeps each socket for a while.
pub(crate) fn disturb(listener: &TcpListener, gone: &AtomicBool) {
    const KEPT: usize = 48;
    let mut sockets = VecDeque::new();
    let mut connections = VecDeque::new();
    let mut udp = VecDeque::new();
    let mut turn = 0u32;
    while !gone.load(Ordering::Relaxed) {
        turn = turn.wrapping_add(1);
        // The binds and the connect fail while the range is full. Closing older sockets makes room.
        if let Ok(socket) = bound(0, turn.is_multiple_of(2)) {
            if turn.is_multiple_of(4) {
                let _listens = socket.listen(1);
            }
            sockets.push_back(socket);
        }
        if let Ok(client) = TcpStream::connect(listener.local_addr().unwrap()) {
            socket2::SockRef::from(&client)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            let (server, _) = listener.accept().unwrap();
            connections.push_back((client, server));
        }
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            udp.push_back(socket);
        }
        if udp.len() > KEPT {
            udp.pop_front();
        }
        if sockets.len() > KEPT {
            sockets.pop_front();
        }
        if connections.len() > KEPT {
            connections.pop_front();
        }
    }
}
