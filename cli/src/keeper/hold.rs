//! The main program of the keeper (the process that holds the ports).

use std::io::{self, BufRead};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use portlease::Protocol;

use crate::exit;
use crate::failure::Failure;
use crate::keeper::holding::Holding;
use crate::keeper::link::{ReserveLink, detach};
use crate::keeper::messages::{Answer, PRINTED, Request, send};
use crate::keeper::releases::ReleaseListener;
use crate::keeper::start::{check_not_ended, ended};
use crate::output::report;
use crate::port_server::{Granted, PortServer};
use crate::process::{self, ProcessHandle, watch_failure};
use crate::reserve_options::{reserve_options, server_kind};

pub(crate) fn run_keeper() -> Result<u8, Failure> {
    let cannot = |e: io::Error| Failure::system("run as a keeper", &e);
    let ReserveLink {
        mut reader,
        writer: mut answers,
    } = ReserveLink::inherited().map_err(cannot)?;
    let mut line = String::new();
    reader.read_line(&mut line).map_err(cannot)?;
    let request: Request = serde_json::from_str(&line)
        .map_err(|e| Failure::new(format!("cannot read the request: {e}")))?;
    let printed = read_confirmation(reader).map_err(cannot)?;
    let (process, listener, mut holding) = match reserve_for_process(&request) {
        Ok(holding) => holding,
        Err(failure) => {
            let failure = failure.of_reserving(request.selection.shared.wait.is_some());
            send(&mut answers, &Answer::Failed(report::failure(&failure))).map_err(cannot)?;
            return Ok(failure.code());
        }
    };
    let answer = Answer::Holds {
        rows: holding.rows(),
        stays: !holding.is_over(),
    };
    send(&mut answers, &answer).map_err(cannot)?;
    if printed.recv().is_err() {
        return Ok(exit::FAILED);
    }
    detach().map_err(cannot)?;
    listener.serve(&mut holding, process).map_err(cannot)?;
    Ok(exit::YES)
}

/// Reserves the ports. Fails if the process that needs them has ended meanwhile, for example during
/// a wait for a busy port.
fn reserve_for_process(
    request: &Request,
) -> Result<(Option<ProcessHandle>, ReleaseListener, Holding), Failure> {
    let Some(pid) = request.pid else {
        let (listener, holding) = reserve(request)?;
        return Ok((None, listener, holding));
    };
    let process = ProcessHandle::of_reserve(pid).map_err(|e| watch_failure(pid, &e))?;
    let process = process.ok_or_else(|| ended(pid))?;
    let (listener, holding) = reserve(request)?;
    check_not_ended(pid, &process)?;
    Ok((Some(process), listener, holding))
}

/// Reads the confirmation of `reserve` in a thread. If `reserve` exits without a confirmation, the
/// thread ends this process, even while the main thread waits for a port that is in use.
fn read_confirmation(mut reader: impl BufRead + Send + 'static) -> io::Result<Receiver<()>> {
    let (sender, receiver) = channel();
    let read = move || {
        let mut message = String::new();
        match reader.read_line(&mut message) {
            Ok(_) if message == PRINTED => {
                // If the main thread has failed, the receiver is gone, and the send fails.
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

fn reserve(request: &Request) -> Result<(ReleaseListener, Holding), Failure> {
    let Request { selection, pid, .. } = request;
    let protocol = if selection.udp {
        Protocol::Udp
    } else {
        Protocol::Tcp
    };
    // Without a `pid`, no command runs under the reservation, so `command` is empty. Even an empty
    // `command` keeps the record from naming a source line of this function.
    let command = pid.map(process::name).unwrap_or_default();
    let mut options = reserve_options(&selection.shared, protocol, None, &command);
    if let Some(pid) = pid {
        options = options.on_behalf_of(*pid);
    }
    if let Some(name) = &selection.name {
        options = options.named(name);
    }
    let mut granted = Vec::new();
    // A port server gets a pid with each request, and releases the port when that process ends. A
    // port server that itself holds the port must get the pid `requester`. With `--for`,
    // `requester` is this keeper, because the keeper ends when the time has passed.
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
            let kind = server_kind(&selection.shared, protocol);
            for _ in 0..count {
                let own = std::process::id();
                let mut port = server.reserve(&options, kind, own)?;
                if matches!(port, Granted::HeldByServer { .. }) && requester != own {
                    // The port server holds `port` only until this keeper ends. A keeper that
                    // holds no port itself ends at once. So request another port, which the port
                    // server holds until `requester` ends.
                    port = server.reserve(&options, kind, requester)?;
                }
                match port {
                    Granted::Reserved(reservation) => held.push(reservation),
                    Granted::HeldByServer { port, .. } => granted.push(port),
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
        until,
    };
    // On macOS and the BSDs the listener is a socket file in the lock folder. A reservation has
    // created the folder by now.
    let has_unrecorded = holding.unrecorded().next().is_some();
    let listener = ReleaseListener::bind(has_unrecorded);
    let listener = listener.map_err(|e| Failure::system("listen for release requests", &e))?;
    Ok((listener, holding))
}
