//! `portlease run`: runs a command with reserved ports.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use portlease::{Diagnosis, Endpoint, Protocol, Remedy, Reservation, State, wait_until_held_by};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

use crate::args::RunArgs;
use crate::exit;
use crate::failure::{self, Failure};
use crate::http_probe::NamedProbe;
use crate::http_wait::{HttpOutcome, Unanswered, until_answered};
use crate::leaks::LeakCheck;
use crate::limits::{
    COMMAND_CHARS, LISTEN_REPORT, TERMINATE_GRACE, TERMINATE_POLL, remaining, sleep,
};
use crate::orphans::reap_adopted;
use crate::output::console::Console;
use crate::output::json::{JSON_VERSION, ReservedRow};
use crate::output::report;
use crate::ports::NamedPort;
use crate::reserve_options::{check_choice, reserve_options, reserve_port};
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
        if let Some(note) = ReservedRow::from(reservation).other_choice()
            && !console.is_json()
        {
            console.note(format_args!("{name} is {note}"));
        }
    }
    if console.is_json() {
        // stdout belongs to the command, so the answer goes to stderr.
        console.json_on_stderr(&Answer {
            version: JSON_VERSION,
            ports: reservations.iter().map(NamedRow::from).collect(),
        })?;
    }
    let requests = args.http.iter().map(|of| request(of, &reservations));
    let requests = requests.collect::<Result<Vec<_>, _>>()?;
    let leaks = args.leaks.map(LeakCheck::prepare).transpose()?;
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
    pass_sockets(&mut command, &reservations, args)?;
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(cause) => return Ok(report_spawn_error(console, program, &cause)),
    };
    // This process must not keep the sockets that it passed to the command.
    drop(command);
    let listening = match args.wait_listening {
        Some(limit) => Some(spawn_listen_wait(
            &reservations,
            child.id(),
            limit,
            requests,
        )?),
        None => None,
    };
    if leaks.is_some() {
        // Without it they stay zombies, which own no sockets, until this process ends.
        if let Err(e) = reap_adopted(child.id()) {
            console.note(Failure::system(
                "reap the processes that the command leaves",
                &e,
            ));
        }
    }
    let outcome = supervise(console, &mut child, &mut signals, listening);
    match leaks {
        Some(leaks) => leaks.finish(console, outcome, &udp_endpoints(&reservations)),
        None => outcome,
    }
}

fn udp_endpoints(reservations: &[NamedReservation]) -> Vec<Endpoint> {
    let all = reservations.iter().map(|named| &named.reservation);
    all.filter(|reservation| reservation.protocols().contains(&Protocol::Udp))
        .map(|reservation| Endpoint {
            protocol: Some(Protocol::Udp),
            ..endpoint(reservation)
        })
        .collect()
}

/// Lets the command inherit the sockets of `--listen`.
fn pass_sockets(
    command: &mut Command,
    reservations: &[NamedReservation],
    args: &RunArgs,
) -> Result<(), Failure> {
    let is_passed =
        |named: &&NamedReservation| args.listen.iter().any(|port| port.name == named.name);
    for (at, named) in (0..).zip(reservations.iter().filter(is_passed)) {
        match args.fd {
            Some(fd) => named.reservation.pass_to_fd(command, i32::from(fd) + at)?,
            None => named.reservation.pass_to(command)?,
        }
    }
    Ok(())
}

fn reserve(args: &RunArgs, program: &OsStr) -> Result<Vec<NamedReservation>, Failure> {
    let shared = &args.shared;
    let default = [NamedPort {
        name: "PORT".to_owned(),
        port: None,
        protocol: Protocol::Tcp,
    }];
    let ports: Vec<&NamedPort> = args.ports.iter().chain(&args.listen).collect();
    let ports = if ports.is_empty() {
        default.iter().collect()
    } else {
        ports
    };
    for (n, port) in ports.iter().enumerate() {
        if ports[..n].iter().any(|earlier| earlier.name == port.name) {
            return Err(Failure::new(format!(
                "cannot reserve {}: --port and --listen use this name twice",
                port.name
            )));
        }
    }
    let server = Path::new(program)
        .file_name()
        .unwrap_or(program)
        .to_string_lossy();
    let command = cut(&shell_words(&args.command), COMMAND_CHARS);
    if ports.iter().any(|port| port.port.is_none()) {
        check_choice(&shared.numbers, args.stable.then_some("--stable"))?;
    }
    let is_udp = |port: &&&NamedPort| port.protocol == Protocol::Udp;
    if let Some(port) = ports.iter().find(is_udp).filter(|_| shared.numbers.both) {
        return Err(Failure::new(format!(
            "cannot reserve {}/udp: --both reserves each number for TCP and for UDP",
            port.name
        )));
    }
    let reserve_named = |port: &NamedPort| -> Result<NamedReservation, Failure> {
        // The label is the name of the socket in LISTEN_FDNAMES.
        let is_passed = args.listen.iter().any(|passed| passed.name == port.name);
        let label = match is_passed {
            true => port.name.clone(),
            false => format!("{} of {server}", port.name),
        };
        let mut options = reserve_options(shared, port.protocol, Some(&label), &command);
        if args.stable && port.port.is_none() {
            options = options.named(&port.name);
        }
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
        reserved.push((at, reserve_named(ports[at])?));
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
                && let Ok(Err(failure)) = wait.listened.recv_timeout(LISTEN_REPORT)
            {
                console.note(ended_first(status, &failure));
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
                return Err(not_in_time(limit, &error));
            }
            Some(Err(TryRecvError::Disconnected)) => listening = None,
            Some(Err(TryRecvError::Empty)) | None => {}
        }
    }
}

/// The report on the port of a wait that failed; `None` if it failed for another reason.
fn report_of(failure: &Failure) -> Option<&Diagnosis> {
    match failure.cause() {
        failure::Cause::Library(error) => error.diagnosis(),
        failure::Cause::Text(_) => None,
    }
}

/// The note on a command that ended before it listened.
fn ended_first(status: ExitStatus, failure: &Failure) -> String {
    let found = report_of(failure).and_then(|report| Some((report, report.endpoint()?)));
    let Some((diagnosis, endpoint)) = found else {
        return report::failure(failure);
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

/// The failure of a command that did not listen or answer in time.
fn not_in_time(limit: Duration, failure: &Failure) -> Failure {
    let text = match report_of(failure) {
        Some(diagnosis) => report::headline_and_help(diagnosis, true),
        None => report::failure(failure),
    };
    let limit = humantime::format_duration(limit);
    Failure::new(format!("stopped the command after {limit}: {text}"))
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
    listened: Receiver<Result<Duration, Failure>>,
}

/// The request to the port that the probe names.
fn request(named: &NamedProbe, reservations: &[NamedReservation]) -> Result<Unanswered, Failure> {
    let NamedProbe { name, probe } = named;
    let mut all = reservations.iter();
    let found = match name {
        Some(name) => all.find(|of| of.name == *name),
        None => all.find(|of| of.reservation.protocols().contains(&Protocol::Tcp)),
    };
    match (found, name) {
        (Some(found), _) => Unanswered::new(endpoint(&found.reservation), probe),
        (None, Some(name)) => Err(Failure::new(format!(
            "cannot send {probe} to {name}: no --port has this name"
        ))),
        (None, None) => Err(Failure::new(format!(
            "cannot send {probe}: no TCP port is reserved"
        ))),
    }
}

/// Waits in a thread until the command listens on all ports, and has answered the requests. The
/// thread sends the elapsed time or the error. It then raises SIGCHLD to wake `supervise`, which
/// waits for signals.
fn spawn_listen_wait(
    reservations: &[NamedReservation],
    pid: u32,
    limit: Duration,
    requests: Vec<Unanswered>,
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
        let listen = listen.and_then(|()| answer(requests, started, limit, pid));
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

fn answer(
    requests: Vec<Unanswered>,
    started: Instant,
    limit: Duration,
    pid: u32,
) -> Result<(), Failure> {
    match until_answered(requests, started, limit, Some(pid))? {
        HttpOutcome::Answered => Ok(()),
        HttpOutcome::TimedOut(left) | HttpOutcome::ProcessEnded(left) => {
            let problems: Vec<String> = left.iter().map(Unanswered::headline).collect();
            Err(Failure::new(problems.join("; ")))
        }
    }
}

fn endpoint(reservation: &Reservation) -> Endpoint {
    Endpoint {
        port: reservation.port(),
        ip: None,
        protocol: reservation.protocols().first().copied(),
    }
}
