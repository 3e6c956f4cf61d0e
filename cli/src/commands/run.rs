//! `portlease run`: a command with reserved ports.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use portlease::{Endpoint, Protocol, Reservation, wait_until_listening};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

use crate::args::{Manner, Run};
use crate::exit;
use crate::failure::Failure;
use crate::output::console::Console;
use crate::output::json::{ReservedRow, VERSION};
use crate::ports::Named;
use crate::reserve_options::{options, reserve as reserve_one};
use crate::signals::is_ignored;
use crate::text::lower;
use crate::wait_loop::left;

/// What is passed on to the command.
const FORWARDED: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// A command that was asked to end, because it does not listen, is killed after that.
const GRACE: Duration = Duration::from_secs(5);

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

/// A reservation under the name of its variable.
#[derive(Debug)]
struct Lent {
    name: String,
    reservation: Reservation,
}

impl<'a> From<&'a Lent> for NamedRow<'a> {
    fn from(lent: &'a Lent) -> Self {
        NamedRow {
            name: &lent.name,
            reserved: (&lent.reservation).into(),
        }
    }
}

pub(crate) fn run(console: &Console, args: &Run) -> Result<u8, Failure> {
    let [program, arguments @ ..] = args.command.as_slice() else {
        return Err(Failure::new("cannot run: no command after --"));
    };
    let lent = reserve(&args.ports, &args.manner, program)?;
    for Lent { name, reservation } in &lent {
        console.detail(format_args!("{name} is {}", endpoint(reservation)));
    }
    if console.is_json() {
        // stdout is the command's.
        console.object_aside(&Answer {
            version: VERSION,
            ports: lent.iter().map(NamedRow::from).collect(),
        })?;
    }
    // Before the command starts, so that no signal falls between.
    let mut signals = signals().map_err(|e| Failure::system("handle signals", &e))?;
    let mut command = Command::new(filled_in(program, &lent));
    command.args(arguments.iter().map(|argument| filled_in(argument, &lent)));
    command.envs(
        lent.iter()
            .map(|lent| (&lent.name, lent.reservation.to_string())),
    );
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(cause) => return Ok(not_started(console, program, &cause)),
    };
    let vigil = match args.wait_listening {
        Some(at_most) => Some(watch(&lent, at_most)?),
        None => None,
    };
    attend(console, &mut child, &mut signals, vigil)
}

fn reserve(ports: &[Named], manner: &Manner, program: &OsStr) -> Result<Vec<Lent>, Failure> {
    let default = [Named {
        name: "PORT".to_owned(),
        port: None,
        protocol: Protocol::Tcp,
    }];
    let ports = if ports.is_empty() { &default } else { ports };
    for (n, port) in ports.iter().enumerate() {
        if ports[..n].iter().any(|earlier| earlier.name == port.name) {
            return Err(Failure::new(format!(
                "cannot reserve {}: the name is given twice",
                port.name
            )));
        }
    }
    let server = Path::new(program)
        .file_name()
        .unwrap_or(program)
        .to_string_lossy();
    let lend = |port: &Named| -> Result<Lent, Failure> {
        let label = format!("{} of {server}", port.name);
        let options = options(manner, port.protocol, Some(&label));
        Ok(Lent {
            name: port.name.clone(),
            reservation: reserve_one(&options, port.port)?,
        })
    };
    ports.iter().map(lend).collect()
}

/// `{NAME}` becomes the number, wherever it stands; other braces stay.
fn filled_in(argument: &OsStr, lent: &[Lent]) -> OsString {
    let mut rest = argument.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        let named = |lent: &&Lent| {
            after
                .strip_prefix(lent.name.as_bytes())
                .is_some_and(|after| after.starts_with(b"}"))
        };
        match lent.iter().find(named).filter(|_| *first == b'{') {
            Some(lent) => {
                out.extend(lent.reservation.to_string().into_bytes());
                rest = &after[lent.name.len() + 1..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

/// As a shell tells it.
fn not_started(console: &Console, program: &OsStr, cause: &io::Error) -> u8 {
    let code = match cause.kind() {
        io::ErrorKind::NotFound => 127,
        // What exec(3) says of a folder in PATH that may not be searched, and no shell does.
        io::ErrorKind::PermissionDenied if !exists(program) => 127,
        // The process could not be made; of the command that says nothing.
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => exit::RUN_FAILED,
        _ if matches!(cause.raw_os_error(), Some(23 | 24)) => exit::RUN_FAILED,
        _ => 126,
    };
    console.complain(&Failure::new(format!(
        "cannot run {}: {}",
        program.to_string_lossy(),
        lower(cause)
    )));
    code
}

/// Whether there is a file that was meant, as far as may be seen.
fn exists(program: &OsStr) -> bool {
    if program.as_bytes().contains(&b'/') {
        return true;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn signals() -> io::Result<SignalsInfo<WithOrigin>> {
    let heeded = FORWARDED.into_iter().filter(|signal| !is_ignored(*signal));
    SignalsInfo::new(heeded.chain([SIGCHLD]))
}

/// Passes signals on until the command has ended.
fn attend(
    console: &Console,
    child: &mut Child,
    signals: &mut SignalsInfo<WithOrigin>,
    mut vigil: Option<Receiver<portlease::Result<Duration>>>,
) -> Result<u8, Failure> {
    let cannot = |e: io::Error| Failure::system("wait for the command", &e);
    loop {
        for origin in signals.wait() {
            // What the terminal sends goes to the command too, which is of the same group: once is enough.
            if origin.signal != SIGCHLD && !matches!(origin.cause, Cause::Kernel) {
                send(child, origin.signal);
            }
        }
        if let Some(status) = child.try_wait().map_err(cannot)? {
            return Ok(code_of(status));
        }
        match vigil.as_ref().map(Receiver::try_recv) {
            Some(Ok(Ok(after))) => {
                console.note(format_args!("listening after {:.1} s", after.as_secs_f64()));
                vigil = None;
            }
            Some(Ok(Err(error))) => {
                end(child).map_err(cannot)?;
                return Err(Failure::new(format!("the command was ended: {error}")));
            }
            Some(Err(TryRecvError::Disconnected)) => vigil = None,
            Some(Err(TryRecvError::Empty)) | None => {}
        }
    }
}

/// It has not been waited for, so the number is still its own.
fn send(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
        // Gone by itself, or under another user by now, whom this one may not signal.
        let _sent = kill_process(pid, signal);
    }
}

fn end(child: &mut Child) -> io::Result<()> {
    send(child, SIGTERM);
    let asked = Instant::now();
    while child.try_wait()?.is_none() {
        if asked.elapsed() >= GRACE {
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(exit::RUN_FAILED)
}

/// Tells when the command listens on all of them, or that it does not; and wakes the loop, which waits for signals.
fn watch(
    lent: &[Lent],
    at_most: Duration,
) -> Result<Receiver<portlease::Result<Duration>>, Failure> {
    let endpoints: Vec<Endpoint> = lent
        .iter()
        .map(|lent| endpoint(&lent.reservation))
        .collect();
    let (tell, told) = channel();
    let wait = move || {
        let started = Instant::now();
        // The first has all of the time, whenever this thread has come to run: the report says how much.
        let mut remaining = at_most;
        let listen = endpoints.into_iter().try_for_each(|endpoint| {
            wait_until_listening(endpoint, remaining)?;
            remaining = left(at_most, started);
            Ok(())
        });
        // The command has ended first, and all of this with it.
        let _gone = tell.send(listen.map(|()| started.elapsed()));
        let _woken = signal_hook::low_level::raise(SIGCHLD);
    };
    let thread = std::thread::Builder::new()
        .name("vigil".to_owned())
        .spawn(wait);
    thread.map_err(|e| Failure::system("start a thread", &e))?;
    Ok(told)
}

fn endpoint(reservation: &Reservation) -> Endpoint {
    Endpoint {
        port: reservation.port(),
        ip: None,
        protocol: reservation.protocols().first().copied(),
    }
}
