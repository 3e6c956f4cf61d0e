//! The main program of the keeper (the process that holds the ports).

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, channel};

use portlease::{Endpoint, Protocol, Reservation};
use rustix::event::{PollFd, PollFlags, poll};

use crate::exit;
use crate::failure::Failure;
use crate::keeper::messages::{Answer, PRINTED, RELEASED, Request, release_address, send};
use crate::limits::RELEASE_TIMEOUT;
use crate::output::json::ReservedRow;
use crate::output::report;
use crate::port_server::PortServer;
use crate::process;
use crate::reserve_options::reserve_options;

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
    let (listener, mut held) = match reserve(&request) {
        Ok(holding) => holding,
        Err(failure) => {
            send(&mut answers, &Answer::Failed(report::failure(&failure))).map_err(cannot)?;
            return Ok(failure.code());
        }
    };
    send(
        &mut answers,
        &Answer::Holds(held.iter().map(ReservedRow::from).collect()),
    )
    .map_err(cannot)?;
    if printed.recv().is_err() {
        return Ok(exit::FAILED);
    }
    // The file system of a working directory cannot be unmounted, so the keeper moves to `/`.
    std::env::set_current_dir("/").map_err(cannot)?;
    // In a session of its own the keeper gets neither Ctrl-C nor the hangup of the terminal.
    rustix::process::setsid().map_err(|e| cannot(e.into()))?;
    serve_releases(&listener, &mut held).map_err(cannot)?;
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

fn reserve(request: &Request) -> Result<(UnixListener, Vec<Reservation>), Failure> {
    let Request { selection, pid } = request;
    let listener =
        release_address(std::process::id()).and_then(|address| UnixListener::bind_addr(&address));
    let listener = listener.map_err(|e| Failure::system("listen for release requests", &e))?;
    let protocol = if selection.udp {
        Protocol::Udp
    } else {
        Protocol::Tcp
    };
    let command = process::name(*pid);
    let mut options =
        reserve_options(&selection.shared, protocol, None, &command).on_behalf_of(*pid);
    if let Some(name) = &selection.name {
        options = options.named(name);
    }
    if !selection.offsets.is_empty() {
        if let Some(port) = selection.port {
            options = options.port(port);
        }
        return Ok((
            listener,
            options.reserve_offsets(selection.offsets.clone())?,
        ));
    }
    let count = usize::from(selection.count);
    let held = match (selection.port, selection.block, PortServer::from_env()) {
        (None, true, Some(_)) => {
            return Err(Failure::new(
                "cannot reserve a block: the port server of PORTSERVER_ADDRESS grants only single \
                 ports; name the first port with --port, or unset PORTSERVER_ADDRESS",
            ));
        }
        (None, false, Some(server)) => (0..count)
            .map(|_| server.reserve(&options))
            .collect::<Result<_, _>>()?,
        (Some(port), true, _) => options.port(port).reserve_block(count)?,
        (Some(port), false, _) => options.port(port).reserve_many(count)?,
        (None, true, None) => options.reserve_block(count)?,
        (None, false, None) => options.reserve_many(count)?,
    };
    Ok((listener, held))
}

/// Answers release requests until all ports are released, or until the process that they are
/// reserved for ends. stdin is the pidfd of that process.
fn serve_releases(listener: &UnixListener, held: &mut Vec<Reservation>) -> io::Result<()> {
    let process = io::stdin();
    while !held.is_empty() {
        let mut fds = [
            PollFd::new(&process, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [ended, requested] = fds.map(|fd| !fd.revents().is_empty());
        if ended {
            break;
        }
        if requested {
            let (stream, _) = listener.accept()?;
            // The answer fails if the client has closed the connection, which does not matter here.
            let _answered = answer_release(stream, held);
        }
    }
    Ok(())
}

fn answer_release(stream: UnixStream, held: &mut Vec<Reservation>) -> io::Result<()> {
    stream.set_read_timeout(Some(RELEASE_TIMEOUT))?;
    stream.set_write_timeout(Some(RELEASE_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let uid = rustix::net::sockopt::socket_peercred(&stream)?.uid;
    let allowed = uid == rustix::process::geteuid() || uid.is_root();
    let reply = match line.trim_end().parse::<Endpoint>() {
        Ok(endpoint) if allowed => {
            let before = held.len();
            held.retain(|reservation| !matches(endpoint, reservation));
            if held.len() < before {
                RELEASED
            } else {
                "not held"
            }
        }
        Ok(_) => "not yours",
        Err(_) => "not understood",
    };
    (&stream).write_all(format!("{reply}\n").as_bytes())
}

fn matches(endpoint: Endpoint, reservation: &Reservation) -> bool {
    let has_protocol = |protocol| reservation.protocols().contains(&protocol);
    endpoint.port == reservation.port() && endpoint.protocol.is_none_or(has_protocol)
}
