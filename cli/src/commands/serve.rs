//! `portlease serve`: a port server for clients of portpicker. It reserves the numbers that it
//! grants.

use std::io;

use portlease::{Reservation, ReserveOptions};
use serde::Serialize;

use crate::args::ServeArgs;
use crate::failure::Failure;
use crate::limits::{
    PROCESS_END_POLL, SERVE_REQUEST_TIMEOUT, SERVE_RETRY_DELAY, SERVE_STACK_BYTES, sleep,
};
use crate::output::console::Console;
use crate::output::json::JSON_VERSION;
use crate::process::{self, ProcessHandle, is_in_other_pid_namespace, watch_failure};
use crate::server_address::{PortListener, PortStream, ServerAddress};

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    address: String,
}

pub(crate) fn serve(console: &Console, args: &ServeArgs) -> Result<u8, Failure> {
    let address: ServerAddress = args.address.parse().map_err(|expected| {
        Failure::new(format!("cannot serve on {:?}: {expected}", args.address))
    })?;
    let cannot = |e: io::Error| Failure::system(format_args!("serve on {address}"), &e);
    let mut listener = PortListener::bind(&address).map_err(cannot)?;
    if console.is_json() {
        console.print_json(&Answer {
            version: JSON_VERSION,
            address: address.to_string(),
        })?;
    }
    console.note(format_args!("serving on {address}"));
    let options = ReserveOptions::new()
        .tcp_and_udp()
        .reuse_addr(!args.no_reuse_addr);
    loop {
        let accepted = listener.accept(SERVE_REQUEST_TIMEOUT).and_then(|stream| {
            let (console, options) = (console.clone(), options.clone());
            let grant = move || {
                if let Err(failure) = grant(&console, stream, options) {
                    console.error(&failure);
                }
            };
            std::thread::Builder::new()
                .stack_size(SERVE_STACK_BYTES)
                .spawn(grant)
        });
        if let Err(e) = accepted {
            console.error(&cannot(e));
            sleep(SERVE_RETRY_DELAY);
        }
    }
}

/// Answers one request, which contains a process id. Holds the reservation until that process ends.
fn grant(console: &Console, stream: PortStream, options: ReserveOptions) -> Result<(), Failure> {
    let cannot = |e: io::Error| Failure::system("answer a client", &e);
    let requested = stream.receive_number().map_err(cannot)?;
    // For an orphan, getppid(2) returns 1, which does not show which process to wait for.
    if requested == Some(1) {
        console.note(
            "refused a port for pid 1: every process of this system or container descends from \
             pid 1, so the port would be reserved for all of them; a client whose parent has ended \
             may send 1 too",
        );
        return Ok(());
    }
    let Some(pid) = requested.filter(|pid| *pid > 0) else {
        console.note("refused a request that contains no valid process id");
        return Ok(());
    };
    // The client sends an id of its own pid namespace. In the pid namespace of this server, the
    // same id stands for another process.
    if stream.peer().is_some_and(is_in_other_pid_namespace) {
        console.note(format_args!(
            "refused a port for pid {pid}: the client is in another pid namespace (for example in \
             a container), so this server cannot see the process"
        ));
        return Ok(());
    }
    let Some(handle) = ProcessHandle::open(pid).map_err(|e| watch_failure(pid, &e))? else {
        console.note(format_args!(
            "refused a port for pid {pid}: no such process"
        ));
        return Ok(());
    };
    if handle.has_ended().map_err(|e| watch_failure(pid, &e))? {
        console.note(format_args!(
            "refused a port for pid {pid}: {}",
            process::has_ended_text(pid)
        ));
        return Ok(());
    }
    let reservation = options
        .command(process::name(pid))
        .on_behalf_of(pid)
        .reserve()?;
    stream.send(&format!("{reservation}\n")).map_err(cannot)?;
    drop(stream);
    console.detail(format_args!("reserved {reservation} for pid {pid}"));
    hold_until_end(&handle, reservation).map_err(|e| watch_failure(pid, &e))
}

fn hold_until_end(process: &ProcessHandle, reservation: Reservation) -> io::Result<()> {
    while !process.ended_within(PROCESS_END_POLL)? {}
    drop(reservation);
    Ok(())
}
