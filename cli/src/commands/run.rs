//! `portlease run`: runs a command with reserved ports.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use portlease::{Endpoint, Protocol, Remedy, Reservation, State, wait_until_held_by};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

use crate::args::RunArgs;
use crate::exit;
use crate::failure::Failure;
use crate::limits::{
    COMMAND_CHARS, LISTEN_REPORT, TERMINATE_GRACE, TERMINATE_POLL, remaining, sleep,
};
use crate::output::console::Console;
use crate::output::json::{JSON_VERSION, ReservedRow};
use crate::output::report;
use crate::ports::NamedPort;
use crate::reserve_options::{reserve_options, reserve_port};
use crate::signals::starts_ignored;
use crate::text::{cut, os_message, shell_words};

/// Signals that `run` passes on to its command.
const FORWARDED: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

#[derive(Debug, Serialize)]
struct Answer<'a> {
    version: u8,
    ports: Vec<NamedRow<'a>>,
}

#[derive(Debug, Serialize)]
struct NamedRow<'a> {
    name: &'a str,
    #[serde(flatten)]
    reserved: ReservedRow,
}

/// A reservation, and the name of the environment variable that passes its number to the command.
#[derive(Debug)]
struct NamedReservation {
    name: String,
    reservation: Reservation,
}

impl<'a> From<&'a NamedReservation> for NamedRow<'a> {
    fn from(reservations: &'a NamedReservation) -> Self {
        NamedRow {
            name: &reservations.name,
            reserved: (&reservations.reservation).into(),
        }
    }
}

pub(crate) fn run(console: &Console, args: &RunArgs) -> Result<u8, Failure> {
    let [program, arguments @ ..] = args.command.as_slice() else {
        return Err(Failure::new("cannot run: no command after --"));
    };
    let reservations = reserve(args, program)?;
    for NamedReservation { name, reservation } in &reservations {
        console.detail(format_args!("{name} is {}", endpoint(reservation)));
    }
    if console.is_json() {
        // stdout belongs to the command, so the answer goes to stderr.
        console.json_on_stderr(&Answer {
            version: JSON_VERSION,
            ports: reservations.iter().map(NamedRow::from).collect(),
        })?;
    }
    // The handlers are installed before the command starts, so that no signal is lost.
    let mut signals = install_signals().map_err(|e| Failure::system("handle signals", &e))?;
    let mut command = Command::new(substitute_ports(program, &reservations));
    command.args(
        arguments
            .iter()
            .map(|argument| substitute_ports(argument, &reservations)),
    );
    command.envs(
        reservations
            .iter()
            .map(|reservations| (&reservations.name, reservations.reservation.to_string())),
    );
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(cause) => return Ok(report_spawn_error(console, program, &cause)),
    };
    let listening = match args.wait_listening {
        Some(limit) => Some(spawn_listen_wait(&reservations, child.id(), limit)?),
        None => None,
    };
    supervise(console, &mut child, &mut signals, listening)
}

fn reserve(args: &RunArgs, program: &OsStr) -> Result<Vec<NamedReservation>, Failure> {
    let default = [NamedPort {
        name: "PORT".to_owned(),
        port: None,
        protocol: Protocol::Tcp,
    }];
    let ports = match args.ports.as_slice() {
        [] => &default,
        ports => ports,
    };
    for (n, port) in ports.iter().enumerate() {
        if ports[..n].iter().any(|earlier| earlier.name == port.name) {
            return Err(Failure::new(format!(
                "cannot reserve {}: --port uses this name twice",
                port.name
            )));
        }
    }
    let server = Path::new(program)
        .file_name()
        .unwrap_or(program)
        .to_string_lossy();
    let command = cut(&shell_words(&args.command), COMMAND_CHARS);
    let reserve_named = |port: &NamedPort| -> Result<NamedReservation, Failure> {
        let label = format!("{} of {server}", port.name);
        let options = reserve_options(&args.shared, port.protocol, Some(&label), &command);
        Ok(NamedReservation {
            name: port.name.clone(),
            reservation: reserve_port(&options, port.port)?,
        })
    };
    // Exact numbers first, in ascending order: two runs that wait for the same numbers never hold
    // what the other one waits for.
    let mut order: Vec<usize> = (0..ports.len()).collect();
    order.sort_by_key(|at| (ports[*at].port.is_none(), ports[*at].port));
    let mut reserved: Vec<(usize, NamedReservation)> = Vec::with_capacity(ports.len());
    for at in order {
        reserved.push((at, reserve_named(&ports[at])?));
    }
    reserved.sort_by_key(|(at, _)| *at);
    Ok(reserved.into_iter().map(|(_, named)| named).collect())
}

/// Replaces each `{NAME}` of a reservation by its number. Other braces stay.
fn substitute_ports(argument: &OsStr, reservations: &[NamedReservation]) -> OsString {
    let mut rest = argument.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        let is_named = |candidate: &&NamedReservation| {
            after
                .strip_prefix(candidate.name.as_bytes())
                .is_some_and(|after| after.starts_with(b"}"))
        };
        match reservations
            .iter()
            .find(is_named)
            .filter(|_| *first == b'{')
        {
            Some(found) => {
                out.extend(found.reservation.to_string().into_bytes());
                rest = &after[found.name.len() + 1..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

/// Reports why the command did not start. Returns 126 or 127 as a shell would, or
/// [`exit::RUN_FAILED`] if the system lacks resources.
fn report_spawn_error(console: &Console, program: &OsStr, cause: &io::Error) -> u8 {
    let code = match cause.kind() {
        io::ErrorKind::NotFound => 127,
        // exec(3) fails with EACCES if it may not search a folder in PATH. Shells report 127.
        io::ErrorKind::PermissionDenied if !may_exist(program) => 127,
        // The system lacks memory, processes or descriptors (ENFILE, EMFILE). The command may be
        // executable all the same.
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => exit::RUN_FAILED,
        _ if matches!(cause.raw_os_error(), Some(23 | 24)) => exit::RUN_FAILED,
        _ => 126,
    };
    console.error(&Failure::new(format!(
        "cannot run {}: {}",
        program.to_string_lossy(),
        os_message(cause)
    )));
    code
}

/// Whether the program may exist. `false` only if the name has no slash, and no folder of PATH
/// visibly contains the program.
fn may_exist(program: &OsStr) -> bool {
    if program.as_bytes().contains(&b'/') {
        return true;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn install_signals() -> io::Result<SignalsInfo<WithOrigin>> {
    let handled = FORWARDED
        .into_iter()
        .filter(|signal| !starts_ignored(*signal));
    SignalsInfo::new(handled.chain([SIGCHLD]))
}

/// Passes signals on to the command until it ends. If the wait for its listeners fails, stops the
/// command.
fn supervise(
    console: &Console,
    child: &mut Child,
    signals: &mut SignalsInfo<WithOrigin>,
    mut listening: Option<ListenWait>,
) -> Result<u8, Failure> {
    let cannot = |e: io::Error| Failure::system("wait for the command", &e);
    loop {
        for origin in signals.wait() {
            // For Ctrl-C and similar keys the kernel sends the signal to the whole process group.
            // So the command has that signal already.
            if origin.signal != SIGCHLD && !matches!(origin.cause, Cause::Kernel) {
                send_signal(child, origin.signal);
            }
        }
        if let Some(status) = child.try_wait().map_err(cannot)? {
            // The wait notices the end too, and reports what the command did not do.
            if let Some(wait) = listening
                && let Ok(Err(error)) = wait.listened.recv_timeout(LISTEN_REPORT)
            {
                console.note(ended_first(status, error));
            }
            return Ok(exit_code(status));
        }
        match listening.as_ref().map(|wait| wait.listened.try_recv()) {
            Some(Ok(Ok(after))) => {
                console.note(format_args!(
                    "the command started to listen after {:.1} s",
                    after.as_secs_f64()
                ));
                listening = None;
            }
            Some(Ok(Err(error))) => {
                terminate(child).map_err(cannot)?;
                let limit = listening.map(|wait| wait.limit).unwrap_or_default();
                return Err(not_in_time(limit, error));
            }
            Some(Err(TryRecvError::Disconnected)) => listening = None,
            Some(Err(TryRecvError::Empty)) | None => {}
        }
    }
}

/// The note on a command that ended before it listened.
fn ended_first(status: ExitStatus, error: portlease::Error) -> String {
    let Some((diagnosis, endpoint)) = error
        .diagnosis()
        .and_then(|diagnosis| Some((diagnosis, diagnosis.endpoint()?)))
    else {
        return report::failure(&error.into());
    };
    let mut text = format!("the command ended ({status}) before it listened on port {endpoint}");
    let mut sockets = diagnosis.holders().into_iter().flatten();
    let is_redirected = diagnosis.remedies().contains(&Remedy::ListPacketFilter);
    if is_redirected || sockets.any(|socket| socket.state == State::Listen) {
        text += &format!(": {}", diagnosis.cause());
    }
    match report::help(diagnosis, true) {
        Some(help) => format!("{text}\nhelp: {help}"),
        None => text,
    }
}

/// The failure of a command that did not listen in time.
fn not_in_time(limit: Duration, error: portlease::Error) -> Failure {
    match error.diagnosis() {
        Some(diagnosis) => Failure::new(format!(
            "stopped the command after {}: {}",
            humantime::format_duration(limit),
            report::headline_and_help(diagnosis, true)
        )),
        None => error.into(),
    }
}

/// The caller must not have reaped the child. After that, another process can have its pid.
fn send_signal(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
        // The call fails if the child has ended, or runs as a user whose processes this one may not
        // signal. Then nothing more can be done.
        let _sent = kill_process(pid, signal);
    }
}

fn terminate(child: &mut Child) -> io::Result<()> {
    send_signal(child, SIGTERM);
    let requested = Instant::now();
    while child.try_wait()?.is_none() {
        if requested.elapsed() >= TERMINATE_GRACE {
            child.kill()?;
            child.wait()?;
            break;
        }
        sleep(TERMINATE_POLL);
    }
    Ok(())
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(exit::RUN_FAILED)
}

/// A wait in a thread until the command listens on all ports.
#[derive(Debug)]
struct ListenWait {
    limit: Duration,
    /// The elapsed time, or why the command does not listen.
    listened: Receiver<portlease::Result<Duration>>,
}

/// Waits in a thread until the command listens on all ports. The thread sends the elapsed time or
/// the error. It then raises SIGCHLD to wake `supervise`, which waits for signals.
fn spawn_listen_wait(
    reservations: &[NamedReservation],
    pid: u32,
    limit: Duration,
) -> Result<ListenWait, Failure> {
    let endpoints: Vec<Endpoint> = reservations
        .iter()
        .map(|reservations| endpoint(&reservations.reservation))
        .collect();
    let (sender, receiver) = channel();
    let wait = move || {
        let started = Instant::now();
        // The first wait gets the whole limit, so that a timeout reports the user's DURATION.
        let mut left = limit;
        let listen = endpoints.into_iter().try_for_each(|endpoint| {
            wait_until_held_by(endpoint, pid, left)?;
            left = remaining(limit, started);
            Ok(())
        });
        // If the command ended first, the receiver is gone, and the send fails.
        let _sent = sender.send(listen.map(|()| started.elapsed()));
        let _woken = signal_hook::low_level::raise(SIGCHLD);
    };
    let thread = std::thread::Builder::new()
        .name("wait".to_owned())
        .spawn(wait);
    thread.map_err(|e| Failure::system("start a thread", &e))?;
    Ok(ListenWait {
        limit,
        listened: receiver,
    })
}

fn endpoint(reservation: &Reservation) -> Endpoint {
    Endpoint {
        port: reservation.port(),
        ip: None,
        protocol: reservation.protocols().first().copied(),
    }
}
