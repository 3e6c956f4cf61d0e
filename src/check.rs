//! Assertions: `assert_*` panics with what `check_*` returns.

use std::collections::HashSet;
use std::io;

use crate::inspect::availability::availability;
use crate::inspect::listening::is_listening;
use crate::inspect::{diagnose, who};
use crate::model::diagnosis::Diagnosis;
use crate::model::diagnosis::verdict::Verdict;
use crate::model::endpoint::Protocol;
use crate::model::error::{Error, Result};
use crate::model::port::Port;
use crate::model::port_set::PortSet;
use crate::model::process::Process;
use crate::model::server_kind::ServerKind;
use crate::model::state::State;
use crate::model::to_endpoint::{ToEndpoint, ports_of};
use crate::os_error::OsMessage;
use crate::ownership::{Asker, is_descendant};
use crate::reservation::Reservation;
use crate::residual;
use crate::retry::RetryBudget;
use crate::sockets::{self, ScanDepth};

/// Whether a server that follows the system's custom (SO_REUSEADDR on Unix) could bind this port now, and nobody else
/// has reserved it.
///
/// Without a protocol it asks about TCP, without an address about all of them, on IPv4 and IPv6. Connections in
/// TIME_WAIT that such a server left do not count, nor does a reservation of this process or of one that started it.
/// It tells about now: for a port that stays free, [reserve](crate::reserve_port) one.
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// assert!(!portlease::is_port_free(&p));
/// drop(server);
/// assert!(portlease::is_port_free(&p));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
///
/// If the operand names no port.
///
/// # Races
///
/// A listener that this process has just closed lives on in a child that was forked at that moment, until that execs:
/// where such children alone hold the port, it is asked again, for 100 ms, and for up to 2 s while one is seen.
///
/// The question is a bind(2) that is undone at once: a server without SO_REUSEADDR that binds in these microseconds
/// is refused.
#[doc(alias = "free port")]
#[track_caller]
pub fn is_port_free(port: impl ToEndpoint) -> bool {
    match ports_of(&port) {
        Ok(ports) => {
            let mut budget = RetryBudget::new();
            let asker = Asker::of(&port);
            let mut is_free = |port| {
                availability(port, ServerKind::ReuseAddr, asker, &mut budget) == Verdict::Free
            };
            ports.into_iter().all(&mut is_free)
        }
        Err(error) => panic!("{error}"),
    }
}

/// [`is_port_free`], with the reason where it is not.
///
/// # Errors
///
/// What is in the way, by name, and what helps; also where the operand names no port.
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let diagnosis = portlease::check_port_free(&p).unwrap_err();
/// assert!(diagnosis.to_string().contains(&format!("listens on {}", p.addr())));
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn check_port_free(port: impl ToEndpoint) -> Result<(), Diagnosis> {
    check_port_free_for(port, ServerKind::ReuseAddr)
}

/// [`check_port_free`] for a server of this kind: a port can be free for one kind and taken for
/// another.
///
/// # Errors
///
/// As [`check_port_free`].
///
/// ```
/// use portlease::{ServerKind, check_port_free_for};
///
/// let p = portlease::reserve_port();
/// check_port_free_for(&p, ServerKind::ReuseAddr)?;
/// # if cfg!(target_os = "linux") {
/// // The claim refuses a server that sets neither option.
/// assert!(check_port_free_for(&p, ServerKind::Plain).is_err());
/// # }
/// # Ok::<(), portlease::Diagnosis>(())
/// ```
pub fn check_port_free_for(port: impl ToEndpoint, kind: ServerKind) -> Result<(), Diagnosis> {
    check_each_free(&port, kind, &mut RetryBudget::new())
}

fn check_each_free(
    operand: &impl ToEndpoint,
    kind: ServerKind,
    budget: &mut RetryBudget,
) -> Result<(), Diagnosis> {
    for port in ports(operand)? {
        diagnose::check_free(port, kind, Asker::of(operand), budget)?;
    }
    Ok(())
}

/// Asserts that a port is free, in the sense of [`is_port_free`].
///
/// # Panics
///
/// If it is not, with the holder's name, pid, state and what to do.
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// drop(server);
/// portlease::assert_port_free(&p); // the server let go
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn assert_port_free(port: impl ToEndpoint) {
    or_panic(check_port_free(port));
}

/// Asserts that a port is free for a server of this kind.
///
/// # Panics
///
/// If it is not, with the holder's name, pid, state and what to do.
///
/// ```
/// use portlease::{ReserveOptions, ServerKind};
///
/// let p = ReserveOptions::new().server(ServerKind::Plain).reserve()?;
/// portlease::assert_port_free_for(&p, ServerKind::Plain);
/// # Ok::<(), portlease::Error>(())
/// ```
#[track_caller]
pub fn assert_port_free_for(port: impl ToEndpoint, kind: ServerKind) {
    or_panic(check_port_free_for(port, kind));
}

/// [`check_port_free`] for each of several ports: the first that is not free, and the others after it.
///
/// # Errors
///
/// As [`check_port_free`].
///
/// ```
/// portlease::check_ports_free(&portlease::reserve_ports::<3>())?;
/// # Ok::<(), portlease::Diagnosis>(())
/// ```
pub fn check_ports_free<P: ToEndpoint>(
    ports: impl IntoIterator<Item = P>,
) -> Result<(), Diagnosis> {
    let mut budget = RetryBudget::new();
    let mut failed = ports
        .into_iter()
        .filter_map(|port| check_each_free(&port, ServerKind::ReuseAddr, &mut budget).err());
    match failed.next() {
        None => Ok(()),
        Some(first) => Err(first.with_more(failed.collect())),
    }
}

/// Asserts that each of several ports is free: a preflight check before a suite.
///
/// As a program that does the same for ports on its command line, `examples/preflight.rs`:
///
/// ```text
#[doc = include_str!("../examples/preflight.rs")]
/// ```
///
/// # Panics
///
/// If one is not, with all of those that are not.
///
/// ```
/// portlease::assert_ports_free(&portlease::reserve_ports::<3>());
/// ```
#[track_caller]
pub fn assert_ports_free<P: ToEndpoint>(ports: impl IntoIterator<Item = P>) {
    or_panic(check_ports_free(ports));
}

/// Whether something listens on the port: a TCP socket that would accept a connection, or a UDP socket that is bound.
/// Without an address, on any of this machine's.
///
/// It looks at the socket table, and connects only on systems where that cannot be read: a server that counts its
/// connections sees none.
///
/// # Errors
///
/// What is known about the port, if nothing listens; also where the operand names no port.
///
/// ```
/// let p = portlease::reserve_port();
/// let nobody = portlease::check_port_listening(&p).unwrap_err();
/// assert!(nobody.to_string().contains("is not listening"));
/// ```
pub fn check_port_listening(port: impl ToEndpoint) -> Result<(), Diagnosis> {
    for port in ports(&port)? {
        let verdict = match is_listening(port) {
            Ok(true) => continue,
            Ok(false) => Verdict::NotListening,
            Err(e) => cannot_tell(&e),
        };
        return Err(diagnose::report(port, verdict));
    }
    Ok(())
}

/// Asserts that something listens on the port, in the sense of [`check_port_listening`].
///
/// # Panics
///
/// If nothing does, with what is known about the port.
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// portlease::assert_port_listening(&p);
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn assert_port_listening(port: impl ToEndpoint) {
    or_panic(check_port_listening(port));
}

/// Whether this process, or one that descends from it, has a socket on the port.
///
/// # Errors
///
/// Who has it instead; that nobody has; that it could not be seen (another user's process); also where the operand
/// names no port, and on systems whose socket table cannot be read.
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// portlease::check_port_held_by(&p, std::process::id())?;
/// # drop(server);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn check_port_held_by(port: impl ToEndpoint, pid: u32) -> Result<(), Diagnosis> {
    for port in ports(&port)? {
        let holders = match who::holders(port.endpoint(), ScanDepth::Complete) {
            Ok(holders) => holders,
            Err(e) => return Err(diagnose::report(port, cannot_tell(&e))),
        };
        // A claim is no server.
        let mut processes = holders
            .iter()
            .filter(|holder| holders.lease_of(holder).is_none())
            .flat_map(|holder| &holder.processes);
        if !processes.any(|process| is_descendant(process.pid, pid)) {
            return Err(diagnose::report(port, Verdict::NotHeldBy(pid)));
        }
    }
    Ok(())
}

/// Asserts that this process, or one that descends from it, has a socket on the port: that the server which answers
/// is the one that was started.
///
/// # Panics
///
/// If it has not, with who has.
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// portlease::assert_port_held_by(&p, std::process::id());
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn assert_port_held_by(port: impl ToEndpoint, pid: u32) {
    or_panic(check_port_held_by(port, pid));
}

/// Runs a closure, and asserts that it leaves no TCP listener behind: none of this process and of those that descend
/// from it that was not there before.
///
/// **For tests that are alone in their process**, as under `cargo nextest run`. Under `cargo test` the listeners of the
/// tests beside it count too; there, [`Reservation::release`](crate::Reservation::release) answers for one port.
///
/// # Panics
///
/// If listeners are left, with each by name; if the socket table cannot be read.
///
/// ```
/// let answer = portlease::assert_no_leaked_listeners(|| {
///     let server = portlease::reserve_port().listen();
///     drop(server);
///     42
/// });
/// assert_eq!(answer, 42);
/// ```
#[track_caller]
pub fn assert_no_leaked_listeners<T>(run: impl FnOnce() -> T) -> T {
    match check_no_leaked_listeners(run) {
        Ok(value) => value,
        Err(diagnosis) => panic!("{diagnosis}"),
    }
}

/// [`assert_no_leaked_listeners`], with an error instead of a panic.
///
/// # Errors
///
/// The listeners that are left; that the socket table cannot be read.
///
/// ```
/// let p = portlease::reserve_port();
/// let mut forgotten = None;
/// let left = portlease::check_no_leaked_listeners(|| forgotten = p.listen().ok());
/// # if cfg!(target_os = "linux") {
/// assert!(left.unwrap_err().to_string().contains("was left listening"));
/// # }
/// ```
pub fn check_no_leaked_listeners<T>(run: impl FnOnce() -> T) -> Result<T, Diagnosis> {
    let failed = |e: io::Error| Diagnosis::bare(None, cannot_tell(&e));
    let listeners = || sockets::all_listeners().map_err(failed);
    let before: HashSet<_> = listeners()?.iter().map(|row| row.inode).collect();
    let value = run();
    let mut rows = listeners()?;
    rows.retain(|row| !before.contains(&row.inode));
    let owned = sockets::owners(rows, ScanDepth::Complete).map_err(failed)?;
    let this = std::process::id();
    // A child that is about to call exec closes its copies.
    let keeps = |process: &Process| !process.forked && is_descendant(process.pid, this);
    let left: PortSet = owned
        .holders
        .iter()
        .filter(|holder| holder.state == State::Listen)
        .filter(|holder| holder.processes.iter().any(keeps))
        .map(|holder| holder.local.port())
        .collect();
    let mut left = left
        .within(0..=u16::MAX)
        .map(|number| diagnose::report(Port::new(number, Protocol::Tcp), Verdict::Leaked));
    match left.next() {
        None => Ok(value),
        Some(first) => Err(first.with_more(left.collect())),
    }
}

impl Reservation {
    /// Ends the reservation in any case, and reports whether its server was left running.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let error = p.release().unwrap_err();
    /// assert_eq!(error.kind(), portlease::ErrorKind::InUse);
    /// // port 41023/tcp was left listening: my-test (pid 4100) listens on 127.0.0.1:41023
    /// println!("{error}");
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InUse`](crate::ErrorKind::InUse) with a [diagnosis](crate::Error::diagnosis) that names the
    /// server, if something still listens on the port; [`Io`](crate::ErrorKind::Io) if the sockets
    /// could not be read. On a system without a socket table it reports nothing.
    pub fn release(self) -> Result<()> {
        let asker = Asker::of(&&self);
        let mut budget = RetryBudget::new();
        for port in self.ports() {
            loop {
                let left = match sockets::listening(port.number, port.protocol) {
                    Ok(rows) => rows,
                    Err(e) if e.kind() == io::ErrorKind::Unsupported => break,
                    Err(e) => return Err(Error::system("look at", Some(port), e)),
                };
                if left.is_empty() {
                    break;
                }
                // A listener closed a moment ago can live on in a forked child.
                if !budget.pause(|| residual::owner_of_sockets(left)) {
                    return Err(diagnose::report_to(asker, port, Verdict::Leaked).into());
                }
            }
        }
        Ok(())
    }
}

fn ports(operand: &impl ToEndpoint) -> Result<Vec<Port>, Diagnosis> {
    ports_of(operand).map_err(|error| Diagnosis::invalid(error.to_string()))
}

fn cannot_tell(cause: &io::Error) -> Verdict {
    Verdict::CannotTell(OsMessage(cause).to_string())
}

#[track_caller]
fn or_panic(outcome: Result<(), Diagnosis>) {
    if let Err(diagnosis) = outcome {
        panic!("{diagnosis}");
    }
}
