//! `portlease serve`: a port server for clients of portpicker. It reserves the numbers that it
//! grants.

use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};

use portlease::{Reservation, ReserveOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::ServeArgs;
use crate::failure::Failure;
use crate::limits::{
    PROCESS_END_POLL, SERVE_REQUEST_TIMEOUT, SERVE_RETRY_DELAY, SERVE_STACK_BYTES, sleep,
};
use crate::output::console::Console;
use crate::output::json::JSON_VERSION;
use crate::port_server::{ServerAddress, read_number};
use crate::process::{self, ProcessHandle, watch_failure};
use crate::signals::{die_by, starts_ignored};

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
    // Installs the handlers before the socket exists. Otherwise a signal could end this process and
    // leave the socket file behind.
    let signals = Signals::new(
        [SIGINT, SIGTERM]
            .into_iter()
            .filter(|signal| !starts_ignored(*signal)),
    )
    .map_err(cannot)?;
    let listener = bind(&address).map_err(cannot)?;
    exit_on_signal(signals, address.clone()).map_err(cannot)?;
    raise_descriptor_limit();
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
        let accepted = listener.accept().and_then(|(stream, _)| {
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

/// Binds the address. If the path is a socket that refuses connections, a killed server left it,
/// and this function replaces it.
fn bind(address: &ServerAddress) -> io::Result<UnixListener> {
    match (address.bind(), address) {
        (Err(e), ServerAddress::Path(path)) if e.kind() == io::ErrorKind::AddrInUse => {
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

fn exit_on_signal(mut signals: Signals, address: ServerAddress) -> io::Result<()> {
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            if let ServerAddress::Path(path) = address {
                // The call fails if another process has already removed the socket file.
                let _removed = std::fs::remove_file(path);
            }
            std::process::exit(i32::from(die_by(signal)));
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)?;
    Ok(())
}

/// Raises the limit of open descriptors, because each reservation needs several. If the limit
/// cannot be raised, reservations fail with an error once the descriptors are used up.
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

/// Answers one request, which contains a process id. Holds the reservation until that process ends.
fn grant(console: &Console, stream: UnixStream, options: ReserveOptions) -> Result<(), Failure> {
    let cannot = |e: io::Error| Failure::system("answer a client", &e);
    stream
        .set_read_timeout(Some(SERVE_REQUEST_TIMEOUT))
        .map_err(cannot)?;
    stream
        .set_write_timeout(Some(SERVE_REQUEST_TIMEOUT))
        .map_err(cannot)?;
    let requested = read_number(&stream).map_err(cannot)?;
    // A client sends 1 if it reads the id of its parent after the parent has ended. The server then
    // cannot know which process to wait for.
    let Some(pid) = requested.filter(|pid| *pid > 1) else {
        console.note("refused a request that contains no valid process id");
        return Ok(());
    };
    let Some(handle) = ProcessHandle::open(pid).map_err(|e| watch_failure(pid, &e))? else {
        console.note(format_args!(
            "refused a port for pid {pid}: no such process"
        ));
        return Ok(());
    };
    let reservation = options
        .command(process::name(pid))
        .on_behalf_of(pid)
        .reserve()?;
    (&stream)
        .write_all(format!("{reservation}\n").as_bytes())
        .map_err(cannot)?;
    drop(stream);
    console.detail(format_args!("reserved {reservation} for pid {pid}"));
    hold_until_end(&handle, reservation).map_err(|e| watch_failure(pid, &e))
}

fn hold_until_end(process: &ProcessHandle, reservation: Reservation) -> io::Result<()> {
    while !process.ended_within(PROCESS_END_POLL)? {}
    drop(reservation);
    Ok(())
}
