//! Servers that bind a reserved port by number or inherit a listener, and clients that check which
//! server answers.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portlease::Reservation;
use socket2::{Domain, SockRef, Socket, Type};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Whether to retry a bind. Beside a thread that spawns, a forked child shares the sockets of the
/// previous server until it calls exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    Never,
    WhileInUse,
}

impl Retry {
    fn run<T>(self, mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let deadline = Instant::now() + TIMEOUT / 4;
        loop {
            match bind() {
                Err(e)
                    if e.kind() == io::ErrorKind::AddrInUse
                        && self == Retry::WhileInUse
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_micros(200));
                }
                outcome => return outcome,
            }
        }
    }
}

/// Runs a server on the port, and a client that checks its answer. With `sets_reuse` the standard
/// library binds the server, which sets SO_REUSEADDR.
pub(crate) fn by_number(
    port: u16,
    sets_reuse: bool,
    leaves_time_wait: bool,
    retry: Retry,
) -> io::Result<()> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let plainly = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&addr.into())?;
        socket.listen(8)?;
        Ok(TcpListener::from(socket))
    };
    let listener = retry.run(|| {
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
        let answered = client
            .join()
            .map_err(|_| io::Error::other("the client panicked"))?;
        served.and(answered)
    })
}

/// Runs a child that inherits its listener, and a client that checks its answer.
pub(crate) fn by_child(reservation: &Reservation, retry: Retry) -> io::Result<()> {
    let token = format!("child-of-{}", std::process::id());
    let program = std::env::current_exe()?;
    let mut command = retry.run(|| {
        let mut command = Command::new(&program);
        command.args(["child", &token]);
        reservation.pass_to(&mut command)?;
        Ok(command)
    })?;
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.spawn()?;
    // Until it is dropped, the `Command` keeps the listener open in this process too.
    drop(command);
    let answered = is_answered_by(reservation.addr(), &token, false);
    let _ended = child.kill();
    child.wait()?;
    answered
}

/// Runs the child of [`by_child`]. It serves one client, or ends after a timeout.
pub(crate) fn serve_inherited(token: &str) {
    if let Ok(Some(listener)) = listenfd::ListenFd::from_env().take_tcp_listener(0) {
        let _served = serve_one(&listener, token, false, || false);
    }
}

/// Serves one client. Fails once `is_over` returns true, because the client has ended.
fn serve_one(
    listener: &TcpListener,
    token: &str,
    closes_first: bool,
    is_over: impl Fn() -> bool,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + TIMEOUT;
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
    client.set_read_timeout(Some(TIMEOUT))?;
    client.write_all(token.as_bytes())?;
    client.shutdown(std::net::Shutdown::Write)?;
    if !closes_first {
        // The client resets the connection, which leaves no TIME_WAIT.
        let _reset = client.read(&mut [0]);
    }
    Ok(())
}

fn is_answered_by(addr: SocketAddr, token: &str, closes: bool) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
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

pub(crate) fn udp(port: u16, retry: Retry) -> io::Result<()> {
    let server = retry.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)))?;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(TIMEOUT))?;
    }
    client.send_to(b"ping", (Ipv4Addr::LOCALHOST, port))?;
    let mut bytes = [0; 16];
    let (_, from) = server.recv_from(&mut bytes)?;
    if from == client.local_addr()? {
        Ok(())
    } else {
        Err(io::Error::other(format!("another client: {from}")))
    }
}
