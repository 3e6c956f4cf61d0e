//! Checks and assertions: `assert_*` panics with the diagnosis that `check_*` returns.

use std::collections::HashSet;
use std::io;

use crate::inspect::availability::availability;
use crate::inspect::listening::is_listening;
use crate::inspect::whose::{self, Expected};
use crate::inspect::{diagnose, who};
use crate::model::diagnosis::Diagnosis;
use crate::model::diagnosis::verdict::Verdict;
use crate::model::endpoint::Protocol;
use crate::model::error::{Error, Result};
use crate::model::holder::Holder;
use crate::model::incompleteness::Incompleteness;
use crate::model::port::Port;
use crate::model::port_set::PortSet;
use crate::model::process::Process;
use crate::model::server_kind::ServerKind;
use crate::model::state::State;
use crate::model::to_endpoint::{ToEndpoint, ports_of};
use crate::ownership::{Asker, is_descendant};
use crate::reservation::Reservation;
use crate::residual;
use crate::retry::{ResidualOwner, RetryBudget};
use crate::sockets::{self, ScanDepth};

/// Whether a server of the usual kind (SO_REUSEADDR on Unix) could bind this port now, and no other
/// process has reserved it.
///
/// Without a protocol, the call checks TCP. Without an address, it checks all addresses, on IPv4
/// and IPv6. Connections in TIME_WAIT that such a server left do not count. Neither does a
/// reservation of this process or of an ancestor. The answer holds only for this moment: to get a
/// port that stays free, [reserve](crate::reserve_port) one.
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
/// A listener that was just closed stays open in a forked child until the child calls exec. So the
/// call retries before it returns `false`: for 100 ms while no owner is visible, and for 2 s while
/// a forked child that has not called exec holds the port. A visible process ends the retries at
/// once.
///
/// The check binds the port and releases it at once. During these microseconds the kernel refuses
/// the bind of a server without SO_REUSEADDR.
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

/// [`is_port_free`], with the reason if the port is not free.
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let diagnosis = portlease::check_port_free(&p).unwrap_err();
/// assert!(diagnosis.to_string().contains(&format!("listens on {}", p.addr())));
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// A [`Diagnosis`] that names what blocks the port and what helps. If the port could not be checked
/// (for example because the operand names no port), the diagnosis says why. Before the call reports
/// a busy port, it retries as [`is_port_free`] does: for 100 ms while no owner is visible, and for
/// 2 s while a forked child that has not called exec holds the port. The report takes additional
/// time.
///
/// `?` converts the diagnosis to an [`Error`] in a function that returns this crate's
/// [`Result`](crate::Result).
pub fn check_port_free(port: impl ToEndpoint) -> Result<(), Diagnosis> {
    check_port_free_for(port, ServerKind::ReuseAddr)
}

/// [`check_port_free`] for a server of this kind. A port can be free for one kind of server and
/// taken for another.
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
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// drop(server);
/// portlease::assert_port_free(&p); // the server has closed its listener
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
///
/// If the port is not free. The message has the holder's name, pid and state, and what to do.
/// Before the panic, the call retries as [`check_port_free`] does, for about 2 s at most.
#[track_caller]
pub fn assert_port_free(port: impl ToEndpoint) {
    or_panic(check_port_free(port));
}

/// Asserts that a port is free for a server of this kind.
///
/// # Panics
///
/// If the port is not free for such a server. The message has the holder's name, pid and state, and
/// what to do.
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

/// [`check_port_free`] for each of several ports.
///
/// ```
/// portlease::check_ports_free(&portlease::reserve_ports::<3>())?;
/// # Ok::<(), portlease::Diagnosis>(())
/// ```
///
/// # Errors
///
/// The diagnosis of the first port that is not free, or that could not be checked. Its
/// [`more`](Diagnosis::more) has the diagnoses of the other such ports.
///
/// All ports share one retry budget: the call retries for 100 ms while no owner is visible, and for
/// 2 s while a forked child that has not called exec holds a port. The report takes additional
/// time.
pub fn check_ports_free<P: ToEndpoint>(
    ports: impl IntoIterator<Item = P>,
) -> Result<(), Diagnosis> {
    let mut budget = RetryBudget::new();
    let mut diagnoses = ports
        .into_iter()
        .filter_map(|port| check_each_free(&port, ServerKind::ReuseAddr, &mut budget).err());
    match diagnoses.next() {
        None => Ok(()),
        Some(first) => Err(first.with_more(diagnoses.collect())),
    }
}

/// Asserts that each of several ports is free: a preflight check before a suite.
///
/// ```
/// portlease::assert_ports_free(&portlease::reserve_ports::<3>());
/// ```
///
/// `examples/preflight.rs` is a program that does this for the ports on its command line:
///
/// ```text
#[doc = include_str!("../examples/preflight.rs")]
/// ```
///
/// # Panics
///
/// If any port is not free. The message has the diagnosis of each such port. Before the panic, the
/// call retries as [`check_ports_free`] does, for about 2 s at most for all ports together.
#[track_caller]
pub fn assert_ports_free<P: ToEndpoint>(ports: impl IntoIterator<Item = P>) {
    or_panic(check_ports_free(ports));
}

/// Checks that something listens on the port. That is a TCP socket that would accept a connection,
/// or a UDP socket that is bound. Without an address in the operand, any address of this machine
/// counts.
///
/// The call reads the socket table and makes no connection, so the server does not notice it.
///
/// ```
/// let p = portlease::reserve_port();
/// let diagnosis = portlease::check_port_listening(&p).unwrap_err();
/// assert!(diagnosis.to_string().contains("is not listening"));
/// ```
///
/// # Errors
///
/// A [`Diagnosis`] of the port if nothing listens, if the socket table cannot be read, or if the
/// operand names no port. The call checks once and never retries. To wait for a listener, call
/// [`wait_until_listening`](crate::wait_until_listening).
///
/// # Platform-specific behavior
///
/// On systems whose socket table this crate cannot read, the call tries one connection, for at most
/// 100 ms.
pub fn check_port_listening(port: impl ToEndpoint) -> Result<(), Diagnosis> {
    for port in ports(&port)? {
        let verdict = match is_listening(port) {
            Ok(true) => continue,
            Ok(false) => Verdict::NotListening,
            Err(e) => Verdict::cannot_tell(&e),
        };
        return Err(diagnose::report(port, verdict));
    }
    Ok(())
}

/// Asserts that something listens on the port, in the sense of [`check_port_listening`].
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// portlease::assert_port_listening(&p);
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
///
/// If [`check_port_listening`] returns an error, with its diagnosis.
#[track_caller]
pub fn assert_port_listening(port: impl ToEndpoint) {
    or_panic(check_port_listening(port));
}

/// Checks that the process `pid`, or a process that it started, listens on the port, and that no
/// other process listens on the same address. A process listens if it has a TCP socket that would
/// accept a connection, or a bound UDP socket. A reservation alone does not count.
///
/// Two processes that set SO_REUSEPORT can listen on one address. The kernel then gives some of the
/// clients to each of them.
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// portlease::check_port_held_by(&p, std::process::id())?;
/// # drop(server);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// A [`Diagnosis`] that names the process which has the port instead. The call also fails if
/// nothing listens, if the owner cannot be seen (another user's process), if the operand names no
/// port, or on a system whose socket table cannot be read. It checks once and never retries.
pub fn check_port_held_by(port: impl ToEndpoint, pid: u32) -> Result<(), Diagnosis> {
    let mut expected = Expected::new(pid);
    if sockets::is_running(pid).is_ok_and(|runs| !runs) {
        expected.note_end(None);
    }
    for port in ports(&port)? {
        let holders = match who::holders(port.endpoint(), port.scope_id, ScanDepth::Complete) {
            Ok(holders) => holders,
            Err(e) => return Err(diagnose::report(port, Verdict::cannot_tell(&e))),
        };
        let (own, others): (Vec<&Holder>, Vec<&Holder>) = holders
            .iter()
            .filter(|socket| whose::answers(socket))
            .partition(|socket| expected.has(socket));
        let is_beside = |other: &&Holder| own.iter().any(|own| whose::overlap(own, other));
        let verdict = if own.is_empty() {
            Verdict::NotHeldBy(Some(pid))
        } else if others.iter().any(is_beside) {
            Verdict::SharedWithStranger(pid)
        } else {
            continue;
        };
        return Err(diagnose::not_listening(port, verdict, &expected));
    }
    Ok(())
}

/// Asserts that the process `pid`, or a process that it started, listens on the port, in the sense
/// of [`check_port_held_by`]. A test can so make sure that the server that it started is the one
/// that answers.
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// portlease::assert_port_held_by(&p, std::process::id());
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
///
/// If [`check_port_held_by`] returns an error, with its diagnosis.
#[track_caller]
pub fn assert_port_held_by(port: impl ToEndpoint, pid: u32) {
    or_panic(check_port_held_by(port, pid));
}

/// Runs a closure and asserts that it leaves no TCP listener behind. A listener counts if it is new
/// and belongs to this process or to a descendant, such as a forked child that never calls exec.
///
/// **For tests that are alone in their process**, as under `cargo nextest run`. Under `cargo test`
/// the listeners of other tests in the process count too. Check a single port there, by
/// [`Reservation::release`](crate::Reservation::release).
///
/// ```
/// let answer = portlease::assert_no_leaked_listeners(|| {
///     let server = portlease::reserve_port().listen();
///     drop(server);
///     42
/// });
/// assert_eq!(answer, 42);
/// ```
///
/// # Panics
///
/// If listeners are left, or if the socket table cannot be read. The message names each listener.
/// Before the panic, the call retries as [`check_no_leaked_listeners`] does, for about 2 s at most.
#[track_caller]
pub fn assert_no_leaked_listeners<T>(run: impl FnOnce() -> T) -> T {
    match check_no_leaked_listeners(run) {
        Ok(value) => value,
        Err(diagnosis) => panic!("{diagnosis}"),
    }
}

/// [`assert_no_leaked_listeners`], with an error instead of a panic.
///
/// ```
/// let p = portlease::reserve_port();
/// let mut forgotten = None;
/// let left = portlease::check_no_leaked_listeners(|| forgotten = p.listen().ok());
/// # if cfg!(target_os = "linux") {
/// assert!(left.unwrap_err().to_string().contains("was left listening"));
/// # }
/// ```
///
/// # Errors
///
/// A [`Diagnosis`] of the first listener that is left, with the other listeners as its
/// [`more`](Diagnosis::more). The call also fails if the socket table cannot be read. It fails too
/// if there are new listeners but no process can be inspected, as without `/proc`. Only root sees a
/// descendant that runs as another user.
///
/// A listener that was closed stays open in a forked child until the child calls exec. So the call
/// retries, for about 2 s at most, while one of the listeners belongs only to such children. A
/// listener that is still open after that counts as left.
pub fn check_no_leaked_listeners<T>(run: impl FnOnce() -> T) -> Result<T, Diagnosis> {
    let unreadable = |e: io::Error| Diagnosis::bare(None, Verdict::cannot_tell(&e));
    let listeners = || sockets::all_listeners().map_err(unreadable);
    let before: HashSet<_> = listeners()?.iter().map(|row| row.inode).collect();
    let value = run();
    let own_pid = std::process::id();
    let is_ours = |process: &Process| is_descendant(process.pid, own_pid);
    let mut budget = RetryBudget::new();
    let left = loop {
        let mut rows = listeners()?;
        rows.retain(|row| !before.contains(&row.inode));
        let owned = sockets::owners(rows, ScanDepth::Complete).map_err(unreadable)?;
        // Without /proc the owners of the new listeners cannot be found, so none of them can be
        // called leaked.
        if !owned.holders.is_empty() && owned.unseen.contains(&Incompleteness::Proc) {
            let verdict = Verdict::CannotTell {
                text: Incompleteness::Proc.to_string(),
                is_denied: false,
            };
            return Err(Diagnosis::bare(None, verdict));
        }
        let mut left = owned.holders;
        left.retain(|holder| holder.state == State::Listen);
        left.iter_mut()
            .for_each(|holder| holder.processes.retain(is_ours));
        left.retain(|holder| !holder.processes.is_empty());
        // The exec of a forked child may still close one of the listeners. Until then no listener
        // is reported.
        let owner = || {
            let owners = left
                .iter()
                .map(|holder| residual::owner_among(&holder.processes));
            owners.max().unwrap_or(ResidualOwner::Process)
        };
        if !budget.pause(owner) {
            break left;
        }
    };
    let leaked_ports: PortSet = left.iter().map(|holder| holder.local.port()).collect();
    let mut reports = leaked_ports
        .within(0..=u16::MAX)
        .map(|number| diagnose::report(Port::new(number, Protocol::Tcp), Verdict::Leaked));
    match reports.next() {
        None => Ok(value),
        Some(first) => Err(first.with_more(reports.collect())),
    }
}

impl Reservation {
    /// Ends the reservation in any case, and checks that no server still listens on its port.
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
    /// - [`InUse`](crate::ErrorKind::InUse) with a [diagnosis](crate::Error::diagnosis) that names
    ///   the server, if something still listens on the port. The call first retries for 100 ms
    ///   while no owner is visible, and for 2 s while a forked child that has not called exec has
    ///   the listener.
    /// - [`Io`](crate::ErrorKind::Io) if the socket table cannot be read.
    ///
    /// # Platform-specific behavior
    ///
    /// On systems whose socket table this crate cannot read, the call only ends the reservation and
    /// checks nothing.
    pub fn release(self) -> Result<()> {
        let this = self.without_leak_check();
        let asker = Asker::of(&&this);
        let mut budget = RetryBudget::new();
        for port in this.ports() {
            loop {
                let listeners = match sockets::listening(port.number, port.protocol) {
                    Ok(rows) => rows,
                    Err(e) if e.kind() == io::ErrorKind::Unsupported => break,
                    Err(e) => return Err(Error::system("inspect", Some(port), e)),
                };
                if listeners.is_empty() {
                    break;
                }
                // A listener that was closed a moment ago can still be open in a forked child.
                if !budget.pause(|| residual::owner_of_sockets(listeners)) {
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

#[track_caller]
fn or_panic(outcome: Result<(), Diagnosis>) {
    if let Err(diagnosis) = outcome {
        panic!("{diagnosis}");
    }
}
