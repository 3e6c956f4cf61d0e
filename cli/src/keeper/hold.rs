//! The main program of the keeper (the process that holds the ports).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;
use portlease::{Endpoint, Protocol, Reservation};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::exit;
use crate::failure::Failure;
use crate::keeper::messages::{Answer, PRINTED, RELEASED, Request, new_release_name, send};
use crate::limits::{
    KEEPER_CLIENT_TIMEOUT, RELEASE_LINE_BYTES, SERVE_RETRY_DELAY, TIMER_STEP, sleep,
};
use crate::output::json::ReservedRow;
use crate::output::report;
use crate::port_server::{Granted, PortServer};
use crate::process;
use crate::reserve_options::reserve_options;

const ROOT: u32 = 0;

pub(crate) fn run_keeper() -> Result<u8, Failure> {
    let cannot = |e: io::Error| Failure::system("run as a keeper", &e);
    let socket = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map(UnixStream::from)
        .map_err(cannot)?;
    // If a user started `portlease keeper`, stdout is no socket, and this call fails.
    socket.peer_addr().map_err(cannot)?;
    let mut answers = socket.try_clone().map_err(cannot)?;
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line).map_err(cannot)?;
    let request: Request = serde_json::from_str(&line)
        .map_err(|e| Failure::new(format!("cannot read the request: {e}")))?;
    let printed = read_confirmation(reader).map_err(cannot)?;
    let (listener, mut holding) = match reserve(&request) {
        Ok(holding) => holding,
        Err(failure) => {
            send(&mut answers, &Answer::Failed(report::failure(&failure))).map_err(cannot)?;
            return Ok(failure.code());
        }
    };
    send(&mut answers, &Answer::Holds(holding.rows())).map_err(cannot)?;
    if printed.recv().is_err() {
        return Ok(exit::FAILED);
    }
    // The file system of a working directory cannot be unmounted, so the keeper moves to `/`.
    std::env::set_current_dir("/").map_err(cannot)?;
    // In a session of its own the keeper gets neither Ctrl-C nor the hangup of the terminal.
    rustix::process::setsid().map_err(|e| cannot(e.into()))?;
    serve_releases(&listener, &mut holding).map_err(cannot)?;
    Ok(exit::YES)
}

/// Reads the confirmation of `reserve` in a thread. If `reserve` exits without a confirmation, the
/// thread ends this process, even while the main thread waits for a port that is in use.
fn read_confirmation(mut reader: BufReader<UnixStream>) -> io::Result<Receiver<()>> {
    let (sender, receiver) = channel();
    let read = move || {
        let mut message = String::new();
        match reader.read_line(&mut message) {
            Ok(_) if message == PRINTED => {
                // If the reservation failed, the receiver is gone, and the send fails.
                let _received = sender.send(());
            }
            _ => std::process::exit(i32::from(exit::FAILED)),
        }
    };
    std::thread::Builder::new()
        .name("confirmation".to_owned())
        .spawn(read)?;
    Ok(receiver)
}

/// The ports that the keeper holds, and until when it holds them.
#[derive(Debug)]
struct Holding {
    held: Vec<Reservation>,
    /// Ports that a port server (the server of `PORTSERVER_ADDRESS`) holds.
    granted: Vec<u16>,
    /// Whether the port server holds the `granted` ports until this process ends. Otherwise it
    /// holds them until the process of the request ends.
    holds_granted: bool,
    has_process: bool,
    until: Option<Instant>,
}

impl Holding {
    fn rows(&self) -> Vec<ReservedRow> {
        let granted = self.granted.iter().map(|port| ReservedRow::granted(*port));
        let held = self.held.iter().map(ReservedRow::from);
        held.chain(granted).collect()
    }

    fn is_over(&self) -> bool {
        let is_empty = self.held.is_empty() && (self.granted.is_empty() || !self.holds_granted);
        is_empty || self.until.is_some_and(|until| until <= Instant::now())
    }
}

fn reserve(request: &Request) -> Result<(UnixListener, Holding), Failure> {
    let Request { selection, pid, .. } = request;
    let listener = SocketAddr::from_abstract_name(new_release_name(std::process::id()))
        .and_then(|address| UnixListener::bind_addr(&address));
    let listener = listener.map_err(|e| Failure::system("listen for release requests", &e))?;
    let protocol = if selection.udp {
        Protocol::Udp
    } else {
        Protocol::Tcp
    };
    let command = process::name(pid.unwrap_or(std::process::id()));
    let mut options = reserve_options(&selection.shared, protocol, None, &command);
    if let Some(pid) = pid {
        options = options.on_behalf_of(*pid);
    }
    if let Some(name) = &selection.name {
        options = options.named(name);
    }
    let mut granted = Vec::new();
    // A port server releases a port when the process that the request names ends.
    let requester = match (*pid, request.hold_for) {
        (Some(pid), None) => pid,
        (None, _) | (_, Some(_)) => std::process::id(),
    };
    let count = usize::from(selection.count);
    let held = match (selection.port, selection.block, PortServer::from_env()?) {
        (port, ..) if !selection.offsets.is_empty() => {
            if let Some(port) = port {
                options = options.port(port);
            }
            options.reserve_offsets(selection.offsets.clone())?
        }
        (None, true, Some(_)) => {
            return Err(Failure::new(
                "cannot reserve a block: the port server of PORTSERVER_ADDRESS grants only single \
                 ports; name the first port with --port, or unset PORTSERVER_ADDRESS",
            ));
        }
        (None, false, Some(server)) => {
            let mut held = Vec::new();
            for _ in 0..count {
                let own = std::process::id();
                let mut port = server.reserve(&options, own)?;
                if matches!(port, Granted::HeldByServer(_)) && requester != own {
                    // The server holds `port` until the keeper ends, which may be too early. So
                    // request another port, which the server holds until `requester` ends.
                    port = server.reserve(&options, requester)?;
                }
                match port {
                    Granted::Reserved(reservation) => held.push(reservation),
                    Granted::HeldByServer(port) => granted.push(port),
                }
            }
            held
        }
        (Some(port), true, _) => options.port(port).reserve_block(count)?,
        (Some(port), false, _) => options.port(port).reserve_many(count)?,
        (None, true, None) => options.reserve_block(count)?,
        (None, false, None) => options.reserve_many(count)?,
    };
    let until = request
        .hold_for
        .and_then(|time| Instant::now().checked_add(time));
    let holding = Holding {
        held,
        granted,
        holds_granted: requester == std::process::id(),
        has_process: pid.is_some(),
        until,
    };
    Ok((listener, holding))
}

/// Answers release requests until all ports are released, the time of `--for` is over, or the
/// process that the ports are reserved for ends. If there is such a process, stdin is its pidfd.
fn serve_releases(listener: &UnixListener, holding: &mut Holding) -> io::Result<()> {
    let process = io::stdin();
    listener.set_nonblocking(true)?;
    let mut client: Option<ReleaseClient> = None;
    while !holding.is_over() {
        let deadlines = [holding.until, client.as_ref().map(|client| client.deadline)];
        let next = deadlines.into_iter().flatten().min();
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        // Adds one timer step, so that the deadline has passed when poll(2) returns.
        let timeout = left.and_then(|left| Timespec::try_from(left + TIMER_STEP).ok());
        let requested = match &client {
            Some(client) => PollFd::new(&client.stream, PollFlags::IN),
            None => PollFd::new(listener, PollFlags::IN),
        };
        let mut fds = vec![requested];
        if holding.has_process {
            fds.push(PollFd::new(&process, PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let (is_requested, has_ended) = (ready.next() == Some(true), ready.next() == Some(true));
        if has_ended {
            break;
        }
        if client
            .as_ref()
            .is_some_and(|client| client.deadline <= Instant::now())
        {
            client = None;
        } else if is_requested {
            client = match client {
                Some(client) => client.read(&mut holding.held),
                None => ReleaseClient::accept(listener)?,
            };
        }
    }
    Ok(())
}

/// A client of `release` that has not sent its whole request yet.
#[derive(Debug)]
struct ReleaseClient {
    stream: UnixStream,
    request: Vec<u8>,
    deadline: Instant,
}

impl ReleaseClient {
    /// Returns `None` if the client has disconnected, or if its user is neither root nor the
    /// keeper's user. A client of another user gets no answer.
    fn accept(listener: &UnixListener) -> io::Result<Option<ReleaseClient>> {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => return Ok(None),
            // Descriptors or memory are used up. The keeper goes on, because its ports must stay
            // reserved.
            Err(_) => {
                sleep(SERVE_RETRY_DELAY);
                return Ok(None);
            }
        };
        let Ok(uid) = getsockopt(&stream, PeerCredentials).map(|peer| peer.uid()) else {
            return Ok(None);
        };
        let is_allowed = [ROOT, geteuid().as_raw()].contains(&uid);
        stream.set_nonblocking(true)?;
        Ok(is_allowed.then(|| ReleaseClient {
            stream,
            request: Vec::new(),
            deadline: Instant::now() + KEEPER_CLIENT_TIMEOUT,
        }))
    }

    /// Reads what the client has sent, and answers the request once it is complete. Returns the
    /// client only if more of its request must be read.
    fn read(mut self, held: &mut Vec<Reservation>) -> Option<ReleaseClient> {
        let mut bytes = [0; RELEASE_LINE_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(count) if count > 0 => self.request.extend(&bytes[..count]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Some(self),
            Ok(_) | Err(_) => return None,
        }
        match self.request.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let reply = answer(&String::from_utf8_lossy(&self.request[..end]), held);
                // The write fails if the client has closed the connection. The answer fits into the
                // buffer of the socket, so the write never blocks.
                let _answered = (&self.stream).write_all(format!("{reply}\n").as_bytes());
                None
            }
            None => (self.request.len() < RELEASE_LINE_BYTES).then_some(self),
        }
    }
}

fn answer(request: &str, held: &mut Vec<Reservation>) -> &'static str {
    let Ok(endpoint) = request.parse::<Endpoint>() else {
        return "not understood";
    };
    let before = held.len();
    held.retain(|reservation| !matches(endpoint, reservation));
    if held.len() < before {
        RELEASED
    } else {
        "not held"
    }
}

fn matches(endpoint: Endpoint, reservation: &Reservation) -> bool {
    let has_protocol = |protocol| reservation.protocols().contains(&protocol);
    endpoint.port == reservation.port() && endpoint.protocol.is_none_or(has_protocol)
}
