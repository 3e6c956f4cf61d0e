//! Servers by number and their clients: whoever answers must be the one that was started.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portlease::Reservation;
use socket2::{Domain, SockRef, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(20);

/// Whether a server is started again until its number is free of its own forerunner: beside a thread that spawns, a
/// child that has not exec'ed yet has that one's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    None,
    ForChildren,
}

impl Patience {
    fn retry<T>(self, mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let deadline = Instant::now() + PATIENCE / 4;
        loop {
            match bind() {
                Err(e)
                    if e.kind() == io::ErrorKind::AddrInUse
                        && self == Patience::ForChildren
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_micros(200));
                }
                outcome => return outcome,
            }
        }
    }
}

/// A server of std's, which sets SO_REUSEADDR; or a plain one, which does not.
pub(crate) fn by_number(
    port: u16,
    sets_reuse: bool,
    leaves_time_wait: bool,
    patience: Patience,
) -> io::Result<()> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let plainly = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&addr.into())?;
        socket.listen(8)?;
        Ok(TcpListener::from(socket))
    };
    let listener = patience.retry(|| {
        if sets_reuse {
            TcpListener::bind(addr)
        } else {
            plainly()
        }
    })?;
    let token = format!("{}-{port}", std::process::id());
    let expected = token.clone();
    std::thread::scope(|scope| {
        let client = scope.spawn(move || is_answered_by(addr, &expected, leaves_time_wait));
        let served = serve_one(&listener, &token, leaves_time_wait, || client.is_finished());
        let asked = client
            .join()
            .map_err(|_| io::Error::other("the client panicked"))?;
        served.and(asked)
    })
}

/// A child that is given its listener, and asked until it answers.
pub(crate) fn by_child(reservation: &Reservation) -> io::Result<()> {
    let token = format!("child-of-{}", std::process::id());
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["child", &token]);
    reservation.pass_to(&mut command)?;
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.spawn()?;
    // The command has the listener too.
    drop(command);
    let asked = is_answered_by(reservation.addr(), &token, false);
    let _ended = child.kill();
    child.wait()?;
    asked
}

/// The role of that child: it serves one client, or ends by itself.
pub(crate) fn serve_inherited(token: &str) {
    if let Ok(Some(listener)) = listenfd::ListenFd::from_env().take_tcp_listener(0) {
        let _served = serve_one(&listener, token, false, || false);
    }
}

/// One client, unless that is over before it came.
fn serve_one(
    listener: &TcpListener,
    token: &str,
    closes_first: bool,
    is_over: impl Fn() -> bool,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    let (mut client, _) = loop {
        match listener.accept() {
            Err(e)
                if e.kind() == io::ErrorKind::WouldBlock
                    && Instant::now() < deadline
                    && !is_over() =>
            {
                std::thread::sleep(Duration::from_micros(100));
            }
            accepted => break accepted?,
        }
    };
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(token.as_bytes())?;
    client.shutdown(std::net::Shutdown::Write)?;
    if !closes_first {
        // The client resets the connection, which leaves nothing.
        let _reset = client.read(&mut [0]);
    }
    Ok(())
}

fn is_answered_by(addr: SocketAddr, token: &str, closes: bool) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if !closes {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    if answer == token {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "another server answered: {answer}"
        )))
    }
}

pub(crate) fn udp(port: u16, patience: Patience) -> io::Result<()> {
    let server = patience.retry(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)))?;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    client.send_to(b"ask", (Ipv4Addr::LOCALHOST, port))?;
    let mut bytes = [0; 16];
    let (_, from) = server.recv_from(&mut bytes)?;
    if from == client.local_addr()? {
        Ok(())
    } else {
        Err(io::Error::other(format!("another client: {from}")))
    }
}
