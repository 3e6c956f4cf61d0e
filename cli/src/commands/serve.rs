//! `portlease serve`: a port server for portpicker's clients, with reservations behind its numbers.

use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use portlease::{Reservation, ReserveOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::Serve;
use crate::failure::Failure;
use crate::output::console::Console;
use crate::output::json::VERSION;
use crate::port_server::{Address, read_number};
use crate::process::Watched;
use crate::signals::is_ignored;

/// Enough for a line on this machine: a client that says nothing is not waited for.
const REQUEST: Duration = Duration::from_secs(10);

/// Out of descriptors or threads, for whose end nothing tells.
const BREATH: Duration = Duration::from_millis(50);

/// A grant is a thread that sleeps until its process ends.
const STACK: usize = 256 * 1024;

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    address: String,
}

pub(crate) fn serve(console: &Console, args: &Serve) -> Result<u8, Failure> {
    let address = Address::from(args.address.as_str());
    let cannot = |e: io::Error| Failure::system(format_args!("serve on {address}"), &e);
    // Before the socket is there, so that none stays behind.
    let signals = Signals::new(
        [SIGINT, SIGTERM]
            .into_iter()
            .filter(|signal| !is_ignored(*signal)),
    )
    .map_err(cannot)?;
    let listener = bind(&address).map_err(cannot)?;
    end_on_signals(signals, address.clone()).map_err(cannot)?;
    raise_descriptor_limit();
    if console.is_json() {
        console.object(&Answer {
            version: VERSION,
            address: address.to_string(),
        })?;
    }
    console.note(format_args!("serving on {address}"));
    let options = ReserveOptions::new()
        .tcp_and_udp()
        .reuse_addr(!args.no_reuse_addr);
    loop {
        let accepted = listener.accept().and_then(|(stream, _)| {
            let (console, options) = (console.clone(), options.clone());
            let grant = move || {
                if let Err(failure) = grant(&console, stream, options) {
                    console.complain(&failure);
                }
            };
            std::thread::Builder::new().stack_size(STACK).spawn(grant)
        });
        if let Err(e) = accepted {
            console.complain(&cannot(e));
            std::thread::sleep(BREATH);
        }
    }
}

/// A socket that a killed server left is nobody's.
fn bind(address: &Address) -> io::Result<UnixListener> {
    match (address.bind(), address) {
        (Err(e), Address::Path(path)) if e.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            let refused = address
                .connect()
                .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            if !(is_socket && refused) {
                return Err(e);
            }
            std::fs::remove_file(path)?;
            address.bind()
        }
        (outcome, _) => outcome,
    }
}

fn end_on_signals(mut signals: Signals, address: Address) -> io::Result<()> {
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            if let Address::Path(path) = address {
                // Somebody was faster.
                let _removed = std::fs::remove_file(path);
            }
            std::process::exit(128 + signal);
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)?;
    Ok(())
}

/// A reservation takes several descriptors. Where the limit may not be raised, the error of the reservation says so.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

/// One request, and the reservation behind its answer until the process has ended.
fn grant(console: &Console, stream: UnixStream, options: ReserveOptions) -> Result<(), Failure> {
    let cannot = |e: io::Error| Failure::system("answer a client", &e);
    stream.set_read_timeout(Some(REQUEST)).map_err(cannot)?;
    stream.set_write_timeout(Some(REQUEST)).map_err(cannot)?;
    let asked = read_number(&stream).map_err(cannot)?;
    // Whoever names 1 meant its parent, which has ended.
    let Some(pid) = asked.filter(|pid| *pid > 1) else {
        console.note("refused: the request names no process");
        return Ok(());
    };
    let Some(process) = Watched::open(pid).map_err(|e| crate::process::cannot_watch(pid, &e))?
    else {
        console.note(format_args!("refused: there is no pid {pid}"));
        return Ok(());
    };
    let reservation = options.on_behalf_of(pid).reserve()?;
    (&stream)
        .write_all(format!("{reservation}\n").as_bytes())
        .map_err(cannot)?;
    drop(stream);
    console.detail(format_args!("{reservation} is pid {pid}'s"));
    keep(&process, reservation).map_err(|e| crate::process::cannot_watch(pid, &e))
}

fn keep(process: &Watched, reservation: Reservation) -> io::Result<()> {
    while !process.has_ended(Duration::from_secs(3600))? {}
    drop(reservation);
    Ok(())
}
