//! The keeper itself.

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
use crate::reserve_options::reserve_options;

/// The keeper's own course.
pub(crate) fn run_keeper() -> Result<u8, Failure> {
    let cannot = |e: io::Error| Failure::system("keep", &e);
    let socket = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map(UnixStream::from)
        .map_err(cannot)?;
    // Started by hand it has a terminal or a pipe there, and nothing to do.
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
    // Nothing is to be in use that it does not use.
    std::env::set_current_dir("/").map_err(cannot)?;
    // Neither Ctrl-C nor the end of the terminal is meant for it.
    rustix::process::setsid().map_err(|e| cannot(e.into()))?;
    serve_releases(&listener, &mut held).map_err(cannot)?;
    Ok(exit::YES)
}

/// Ends the process when `reserve` has ended early: also in the middle of a long queue for a number.
fn read_confirmation(mut reader: BufReader<UnixStream>) -> io::Result<Receiver<()>> {
    let (tell, told) = channel();
    let listen = move || {
        let mut word = String::new();
        match reader.read_line(&mut word) {
            Ok(_) if word == PRINTED => {
                // It is received, or the keeper has failed meanwhile.
                let _received = tell.send(());
            }
            _ => std::process::exit(i32::from(exit::FAILED)),
        }
    };
    std::thread::Builder::new()
        .name("word".to_owned())
        .spawn(listen)?;
    Ok(told)
}

fn reserve(request: &Request) -> Result<(UnixListener, Vec<Reservation>), Failure> {
    let Request { selection, pid } = request;
    let listener = release_address(std::process::id())
        .and_then(|release_address| UnixListener::bind_addr(&release_address));
    let listener = listener.map_err(|e| Failure::system("listen for releases", &e))?;
    let protocol = if selection.udp {
        Protocol::Udp
    } else {
        Protocol::Tcp
    };
    let options = reserve_options(&selection.shared, protocol, None).on_behalf_of(*pid);
    let count = usize::from(selection.count);
    let held = match (selection.port, selection.block, PortServer::from_env()) {
        (None, true, Some(_)) => {
            return Err(Failure::new(
                "cannot reserve a block: the server of PORTSERVER_ADDRESS gives single numbers",
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

/// Until the process on stdin has ended, or everything is released.
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
        let [ended, asked] = fds.map(|fd| !fd.revents().is_empty());
        if ended {
            break;
        }
        if asked {
            let (stream, _) = listener.accept()?;
            // Whoever asks and goes away hears nothing.
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
    let who = rustix::net::sockopt::socket_peercred(&stream)?.uid;
    let allowed = who == rustix::process::geteuid() || who.is_root();
    let word = match line.trim_end().parse::<Endpoint>() {
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
    (&stream).write_all(format!("{word}\n").as_bytes())
}

fn matches(endpoint: Endpoint, reservation: &Reservation) -> bool {
    let of_protocol = |protocol| reservation.protocols().contains(&protocol);
    endpoint.port == reservation.port() && endpoint.protocol.is_none_or(of_protocol)
}
