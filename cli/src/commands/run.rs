//! `portlease run`: runs a command with reserved ports.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use portlease::{Diagnosis, Endpoint, Holder, Protocol, wait_until_all_held_by, who_holds};
use serde::Serialize;

use crate::args::RunArgs;
use crate::command_end::End;
use crate::duration::parse_duration;
use crate::exit;
use crate::failure::Failure;
use crate::finding::has_server;
use crate::http_probe::NamedProbe;
use crate::http_wait::{HttpOutcome, Obstacle, Unanswered, until_answered};
use crate::inherited_sockets::InheritedSockets;
use crate::interruption::{self, is_interrupted};
use crate::leaks::LeakCheck;
use crate::limits::{COMMAND_CHARS, LEAK_GRACE, LEAK_POLL, PROCESS_END_POLL, sleep};
use crate::listen_wait::ListenWait;
use crate::output::console::Console;
use crate::output::json::{JSON_VERSION, ReservedRow};
use crate::output::report;
use crate::placeholders::Placeholders;
use crate::port_server::Granted;
use crate::ports::{NamedPort, port_summary};
use crate::process::ProcessHandle;
use crate::process_stat::ProcessStat;
use crate::process_tree::end_tree;
use crate::reserve_options::{
    check_choice, check_distinct, reserve_options, reserve_port, server_kind,
};
use crate::silent_ports::SilentPorts;
use crate::spawning;
use crate::supervise::{Supervisor, wake};
use crate::text::{cut, os_message, shell_words};

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
    protocol: Protocol,
    reservation: Granted,
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
    let limit = args.shared.wait.unwrap_or_default();
    let reservations = console.while_waiting("busy ports to become free", limit, || {
        reserve(args, program)
    });
    let reservations =
        reservations.map_err(|failure| failure.of_reserving(args.shared.wait.is_some()))?;
    for named in &reservations {
        console.detail(format_args!("{} is {}", named.name, endpoint(named)));
        if let Some(note) = ReservedRow::from(&named.reservation).other_choice()
            && !console.is_json()
        {
            console.note(format_args!("{} is {note}", named.name));
        }
    }
    let rows: Vec<ReservedRow> = reservations
        .iter()
        .map(|named| ReservedRow::from(&named.reservation))
        .collect();
    if let Some(note) = ReservedRow::unrecorded(&rows)
        && !console.is_json()
    {
        console.note(note);
    }
    if console.is_json() {
        // stdout belongs to the command, so the JSON answer goes to stderr.
        console.json_on_stderr(&Answer {
            version: JSON_VERSION,
            ports: reservations.iter().map(NamedRow::from).collect(),
        })?;
    }
    let is_passed = |named: &NamedReservation| is_passed(args, &named.name);
    if args.wait_listening.is_some() && args.http.is_empty() && reservations.iter().all(is_passed) {
        return Err(Failure::new(
            "--wait-listening has no port to wait for: the socket of --listen listens before the \
             command starts\nhelp: wait for an answer with --http, or omit --wait-listening",
        ));
    }
    let requests = args.http.iter().map(|of| request(of, &reservations));
    let requests = requests.collect::<Result<Vec<_>, _>>()?;
    let leaks = args.leaks.map(LeakCheck::prepare).transpose()?;
    let lacks_leaks = cfg!(target_os = "linux") && leaks.is_none();
    let mut supervisor =
        Supervisor::new(console).map_err(|e| Failure::system("handle signals", &e))?;
    let placeholders = Placeholders(
        reservations
            .iter()
            .map(|named| (named.name.as_str(), named.reservation.port().to_string()))
            .collect(),
    );
    for word in args
        .command
        .iter()
        .flat_map(|word| placeholders.unknown(word))
    {
        console.note(placeholders.unknown_note(&word));
    }
    let mut command = Command::new(placeholders.fill(program));
    command.args(arguments.iter().map(|argument| placeholders.fill(argument)));
    command.envs(
        reservations
            .iter()
            .map(|named| (&named.name, named.reservation.port().to_string())),
    );
    pass_sockets(&mut command, &reservations, args)?;
    let started = match supervisor.start(&mut command) {
        Err(cause) => match spawning::instead(&command, &cause) {
            Some(other) => {
                // `other` has no copies of the sockets, so `pass_sockets` makes new ones. The
                // assignment drops the first command with its copies.
                command = other;
                pass_sockets(&mut command, &reservations, args)?;
                supervisor.start(&mut command)
            }
            None => Err(cause),
        },
        started => started,
    };
    let mut running = match started {
        Ok(running) => running,
        Err(cause) => {
            let name = program.to_string_lossy();
            let mut text = format!("cannot run {name}: {}", os_message(&cause));
            if args.wait_listening.is_some() && parse_duration(&name).is_ok() {
                text += &format!(
                    "\nhelp: write the option and the duration as one word: --wait-listening={name}"
                );
            }
            console.error(&Failure::new(text));
            return Ok(spawning::exit_code(program, &cause));
        }
    };
    // `command` owns copies of the sockets of `--listen`. If this process kept the copies, the port
    // would still accept connections after the command has closed its sockets.
    drop(command);
    let listening = match args.wait_listening {
        Some(limit) => {
            // The sockets of `--listen` listen already, so the wait leaves out their ports.
            let awaited = reservations
                .iter()
                .filter(|of| !is_passed(of))
                .map(endpoint);
            let sockets = InheritedSockets::of(args);
            let wait = spawn_listen_wait(awaited.collect(), running.pid, limit, requests, sockets);
            let wait = wait.map(|wait| ListenWait {
                unadopted_since: ProcessStat::of(running.pid)
                    .filter(|_| lacks_leaks)
                    .map(|command| command.started),
                ..wait
            });
            if wait.is_err() {
                // This process fails and releases the ports, so the command must end too. Only the
                // failure to start the thread is reported, because it says more than a failure to
                // end the command.
                let _ended = end_tree(running.pid);
            }
            Some(wait?)
        }
        None => None,
    };
    watch_port_server(console, &reservations);
    let silent = listening.is_none().then(|| {
        // If nothing listens on a watched port and the command fails, a note advises
        // `--no-reuse-addr`. A port of `--listen` already has a listener, so it is not watched.
        let watched = reservations
            .iter()
            .filter(|of| of.protocol == Protocol::Tcp && !is_passed(of));
        SilentPorts::watch(watched.map(|of| (endpoint(of), of.reservation.owner())))
    });
    // The failure of the wait is reported first, because it may explain the listeners that the code
    // below reports.
    let end = running
        .until_end(console, listening)
        .unwrap_or_else(|failure| {
            console.error(&failure);
            End::of_code(exit::RUN_FAILED)
        });
    interruption::watch().map_err(|e| Failure::system("handle signals", &e))?;
    let silent = silent.filter(|_| end.is_own_failure() && !running.was_signalled);
    let mut unexplained = silent.map(|of| of.notes(InheritedSockets::of(args).as_ref()));
    let print = |notes: Vec<String>| notes.into_iter().for_each(|note| console.note(note));
    // If a server has a port of this run, the server may be the reason for the failure. Then the
    // end of this function prints the notes, but only if the code in between has reported nothing.
    if !reservations.iter().map(endpoint).any(has_server) {
        print(unexplained.take().unwrap_or_default());
    }
    // On Unix, the drop kills the watcher process, which would otherwise outlive this process for a
    // moment. On Windows, the drop releases the job object. The processes that the command started
    // then keep running.
    drop(supervisor);
    let (end, has_report) = match leaks {
        Some(mut leaks) => {
            let end = leaks.finish(console, end, &udp_endpoints(&reservations));
            let has_more = release(console, reservations, &leaks.reported, false);
            let has_report = has_more || !leaks.reported.is_empty();
            match end? {
                end if has_more && leaks.fails() && end.is_success() => {
                    (End::of_code(exit::NO), has_report)
                }
                end => (end, has_report),
            }
        }
        None => (
            end,
            release(console, reservations, &HashSet::new(), lacks_leaks),
        ),
    };
    if let Some(notes) = unexplained.filter(|_| !has_report) {
        print(notes);
    }
    Ok(interruption::end().unwrap_or(end).exit())
}

/// Releases the ports, and reports each release that fails. A release fails if a process still
/// listens on the port, or if the socket table cannot be read. Returns `true` after any report,
/// even if `-q` hides it.
///
/// A failed release is not reported in two cases:
///
/// - The servers on the port have ended since the release. The call waits up to [`LEAK_GRACE`] for
///   this.
/// - The inodes of all listeners on the port are in `reported`.
///
/// The reports can name listeners that `--leaks` does not find, because `--leaks` finds only
/// listeners of processes that descend from the command. For example, the command may have asked a
/// running daemon to start a server, or the owner of a listener may be hidden.
fn release(
    console: &Console,
    reservations: Vec<NamedReservation>,
    reported: &HashSet<u64>,
    lacks_leaks: bool,
) -> bool {
    let mut has_report = false;
    for NamedReservation { reservation, .. } in reservations {
        let Err(error) = reservation.release() else {
            continue;
        };
        if error.diagnosis().is_some_and(has_ended_since) {
            continue;
        }
        let holders = error.diagnosis().and_then(|of| of.holders());
        let holders = holders.into_iter().flatten();
        let mut servers = holders.filter(|holder| holder.is_server()).peekable();
        let is_known =
            servers.peek().is_some() && servers.all(|server| reported.contains(&server.inode));
        if !is_known {
            let failure = Failure::from(error).of_release(lacks_leaks);
            console.note(report::failure(&failure));
            has_report = true;
        }
    }
    has_report
}

/// Waits up to [`LEAK_GRACE`] for the servers on the port of the report to end, because a script
/// may end right after it has signalled its server. Returns `true` if no server is left.
fn has_ended_since(report: &Diagnosis) -> bool {
    let started = Instant::now();
    let Some(endpoint) = report.endpoint() else {
        return false;
    };
    loop {
        match who_holds(endpoint) {
            Ok(holders) if !holders.iter().any(Holder::is_server) => return true,
            Ok(_) if started.elapsed() < LEAK_GRACE && !is_interrupted() => sleep(LEAK_POLL),
            Ok(_) | Err(_) => return false,
        }
    }
}

/// The port server may hold ports of this run. If so, starts a thread that prints a note when the
/// port server has ended. If the thread cannot start, the command runs without the note.
fn watch_port_server(console: &Console, reservations: &[NamedReservation]) {
    let mut held = Vec::new();
    let mut holder = None;
    for named in reservations {
        if let Granted::HeldByServer { server, .. } = named.reservation {
            held.push(endpoint(named));
            holder = server;
        }
    }
    let Some(pid) = holder else {
        return;
    };
    let console = console.clone();
    let await_end = move || -> io::Result<()> {
        if let Some(server) = ProcessHandle::open(pid)? {
            while !server.ended_within(PROCESS_END_POLL)? {}
        }
        Ok(())
    };
    let watch = move || {
        if await_end().is_ok() {
            console.note(format_args!(
                "the port server (pid {pid}) has ended, so these ports are no longer reserved: {}",
                port_summary(&held)
            ));
        }
    };
    let thread = std::thread::Builder::new().name("server".to_owned());
    let _started = thread.spawn(watch);
}

fn udp_endpoints(reservations: &[NamedReservation]) -> Vec<Endpoint> {
    let is_udp = |named: &&NamedReservation| named.reservation.protocols().contains(&Protocol::Udp);
    let udp = |named| Endpoint {
        protocol: Some(Protocol::Udp),
        ..endpoint(named)
    };
    reservations.iter().filter(is_udp).map(udp).collect()
}

/// Whether a `--listen` option has this name. If so, the command inherits a socket.
fn is_passed(args: &RunArgs, name: &str) -> bool {
    args.listen.iter().any(|port| port.name == name)
}

/// Lets the command inherit the sockets of `--listen`.
fn pass_sockets(
    command: &mut Command,
    reservations: &[NamedReservation],
    args: &RunArgs,
) -> Result<(), Failure> {
    let passed = reservations.iter().filter(|of| is_passed(args, &of.name));
    for (at, named) in (0..).zip(passed) {
        let Granted::Reserved(reservation) = &named.reservation else {
            return Err(Failure::new(format!(
                "cannot listen on port {}: the port server of PORTSERVER_ADDRESS holds the port; \
                 name a number with --listen {}=N, or unset PORTSERVER_ADDRESS",
                named.reservation.port(),
                named.name
            )));
        };
        match args.fd {
            Some(fd) => reservation.pass_to_fd(command, i32::from(fd) + at)?,
            None => reservation.pass_to(command)?,
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
                "cannot reserve {}: two --port or --listen options use this name; give each its \
                 own name",
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
            "cannot reserve {}/udp: --both reserves each number for TCP and UDP, so omit /udp",
            port.name
        )));
    }
    check_distinct(args)?;
    let reserve_named = |port: &NamedPort| -> Result<NamedReservation, Failure> {
        // For a socket of `--listen`, the label is also the name of the socket in LISTEN_FDNAMES.
        // So this label consists of the name in the option only.
        let label = match is_passed(args, &port.name) {
            true => port.name.clone(),
            false => format!("{} of {server}", port.name),
        };
        let mut options = reserve_options(shared, port.protocol, Some(&label), &command);
        if args.stable && port.port.is_none() {
            options = options.named(&port.name);
        }
        let kind = server_kind(shared, port.protocol);
        Ok(NamedReservation {
            name: port.name.clone(),
            protocol: port.protocol,
            reservation: reserve_port(&options, kind, port.port)?,
        })
    };
    // Exact numbers are reserved first, in ascending order. Otherwise two runs could deadlock: each
    // could hold a number for which the other run waits.
    let mut order: Vec<usize> = (0..ports.len()).collect();
    order.sort_by_key(|at| {
        (
            ports[*at].port.is_none(),
            ports[*at].port,
            ports[*at].protocol,
        )
    });
    let mut reserved: Vec<(usize, NamedReservation)> = Vec::with_capacity(ports.len());
    for at in order {
        reserved.push((at, reserve_named(ports[at])?));
    }
    reserved.sort_by_key(|(at, _)| *at);
    Ok(reserved.into_iter().map(|(_, named)| named).collect())
}

/// The request of one `--http` option, to the port that the option names. If the option names no
/// port, the request goes to the first TCP port.
fn request(named: &NamedProbe, reservations: &[NamedReservation]) -> Result<Unanswered, Failure> {
    let NamedProbe { name, probe } = named;
    let mut all = reservations.iter();
    let found = match name {
        Some(name) => all.find(|of| of.name == *name),
        None => all.find(|of| of.reservation.protocols().contains(&Protocol::Tcp)),
    };
    match (found, name) {
        (Some(found), _) => Unanswered::new(endpoint(found), probe),
        (None, Some(name)) => Err(Failure::new(format!(
            "cannot send {probe} to {name}: no --port or --listen option has this name"
        ))),
        (None, None) => Err(Failure::new(format!(
            "cannot send {probe}: no TCP port is reserved"
        ))),
    }
}

/// Starts a thread that waits until the command listens on all `endpoints`, and has answered the
/// requests of `--http`. The thread sends the elapsed time or the error to the [`Supervisor`], and
/// wakes it.
fn spawn_listen_wait(
    endpoints: Vec<Endpoint>,
    pid: u32,
    limit: Duration,
    requests: Vec<Unanswered>,
    inherited: Option<InheritedSockets>,
) -> Result<ListenWait, Failure> {
    let listening = endpoints.clone();
    let sockets = inherited.clone();
    let (sender, receiver) = channel();
    let wait = move || {
        let started = Instant::now();
        let awaited = endpoints.iter().copied();
        let listen = wait_until_all_held_by(awaited, pid, limit).map_err(Failure::from);
        let listen = listen.and_then(|()| {
            answer(requests, started, limit, pid, |left| {
                let mut unanswered = left.iter().filter(|of| !of.is_answered());
                // A port that is not in `endpoints` is a port of `--listen`. The command inherits
                // the socket of that port, and may not have used it.
                sockets.filter(|_| unanswered.any(|of| !endpoints.contains(&of.endpoint)))
            })
        });
        // The send fails if the supervisor no longer waits for the result.
        let _sent = sender.send(listen.map(|()| started.elapsed()));
        wake();
    };
    let thread = std::thread::Builder::new()
        .name("wait".to_owned())
        .spawn(wait);
    thread.map_err(|e| Failure::system("start a thread", &e))?;
    Ok(ListenWait {
        endpoints: listening,
        limit,
        listened: receiver,
        inherited,
        unadopted_since: None,
    })
}

/// Waits for the answers to the requests of `--http`. `unused` gets the requests without an answer,
/// and returns the inherited sockets if one of these requests went to such a socket.
fn answer(
    requests: Vec<Unanswered>,
    started: Instant,
    limit: Duration,
    pid: u32,
    unused: impl FnOnce(&[Unanswered]) -> Option<InheritedSockets>,
) -> Result<(), Failure> {
    // The search for an obstacle reads the sockets of the command, so the command must still run.
    let (left, is_running) = match until_answered(requests, started, limit, Some(pid))? {
        HttpOutcome::Answered => return Ok(()),
        HttpOutcome::TimedOut(left) => (left, true),
        HttpOutcome::ProcessEnded(left) => (left, false),
    };
    let problems: Vec<String> = left.iter().map(Unanswered::headline).collect();
    let mut lines = vec![problems.join("; ")];
    if is_running {
        let obstacles = Obstacle::find_each(&left, Some(pid));
        // The command will have ended when the user reads the report.
        lines.extend(obstacles.iter().flatten().map(Obstacle::text_after_end));
    }
    lines.extend(unused(&left).map(|sockets| format!("help: {}", sockets.help())));
    Err(Failure::new(lines.join("\n")))
}

fn endpoint(named: &NamedReservation) -> Endpoint {
    Endpoint {
        port: named.reservation.port(),
        ip: None,
        protocol: Some(named.protocol),
    }
}
