//! Checks and assertions: `assert_*` panics with the diagnosis that `check_*` returns.

mod leaks;
mod operands;

use std::time::Duration;

pub use leaks::{assert_no_leaked_listeners, check_no_leaked_listeners};

use crate::inspect::availability;
use crate::inspect::expected::Expected;
use crate::inspect::listening::Snapshot;
use crate::inspect::{diagnose, missing_listener, who};
use crate::model::diagnosis::Diagnosis;
use crate::model::diagnosis::verdict::Verdict;
use crate::model::holder::Holder;
use crate::model::port::Port;
use crate::model::server_kind::ServerKind;
use crate::model::to_endpoint::{ToEndpoint, listening_ports_of, ports_of};
use crate::ownership::Asker;
use crate::retry::RetryBudget;
use crate::sockets;

use operands::Operands;

/// Returns `true` if a server of the usual kind (SO_REUSEADDR on Unix) could bind this port now,
/// and no unrelated process has reserved the port.
///
/// - Without a protocol, the call checks TCP. For a `&Reservation`, it checks each reserved
///   protocol.
/// - Without an address, the call checks all addresses, on IPv4 and IPv6.
/// - Connections in TIME_WAIT do not count if a server of the usual kind left them.
/// - A reservation does not count if this process or an ancestor made it. The same holds for a
///   reservation [on behalf](crate::ReserveOptions::on_behalf_of) of this process or an ancestor.
///
/// The answer holds only for this moment. To get a port that stays free,
/// [reserve](crate::reserve_port) one.
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
/// If the operand names no port, or a network interface that this machine does not have.
///
/// # Races
///
/// A listener that was just closed may still be open in a forked child that has not called exec. So
/// the call retries before it returns `false`: for 2 s while only forked children hold the port,
/// and for 100 ms while no owner is visible. Any other visible owner ends the retries at once. A
/// socket of another user also ends them at once, if this user may not inspect the processes of
/// that user. On Windows the call does not retry.
///
/// The check binds the port and releases it at once. During these microseconds the kernel refuses
/// the bind of a server without SO_REUSEADDR, and can refuse the bind of any other server.
#[doc(alias = "free port")]
#[track_caller]
pub fn is_port_free(port: impl ToEndpoint) -> bool {
    match ports_of(&port) {
        Ok(ports) => {
            let asker = Asker::of(&port);
            let ports = ports.into_iter().map(|port| (port, asker));
            let verdicts = availability::of_each(ports, ServerKind::ReuseAddr, RetryBudget::new);
            verdicts.iter().all(|verdict| *verdict == Verdict::Free)
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
/// A [`Diagnosis`] that names what blocks the port and what helps. If the operand names no port, or
/// the port could not be checked, the diagnosis says why. Before the call reports a busy port, it
/// retries as [`is_port_free`] does, for about 2 s at most. The report takes additional time.
///
/// `?` converts the diagnosis to an [`Error`](crate::Error) in a function that returns this crate's
/// [`Result`](crate::Result).
///
/// # Platform-specific behavior
///
/// On Linux, the search for owners ends early if more than 512 processes run. It then ends once it
/// has found one owner of each socket, and the relatives of that owner that share the socket.
/// Relatives are ancestors and descendants. The diagnosis may then lack other owners, and says so.
/// [`who_holds`](crate::who_holds) searches all processes, which takes longer, and names every
/// owner that this user can see.
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
/// // Beside the claim, the kernel refuses a server that sets neither reuse option.
/// assert!(check_port_free_for(&p, ServerKind::Plain).is_err());
/// # }
/// # Ok::<(), portlease::Diagnosis>(())
/// ```
pub fn check_port_free_for(port: impl ToEndpoint, kind: ServerKind) -> Result<(), Diagnosis> {
    only(check_each([port], kind, RetryBudget::new))
}

fn check_each<P: ToEndpoint>(
    operands: impl IntoIterator<Item = P>,
    kind: ServerKind,
    budget: impl Fn() -> RetryBudget,
) -> Vec<Result<(), Diagnosis>> {
    let operands = Operands::new(operands, ports_of);
    let ports = operands.ports.iter().map(|of| (of.port, of.asker));
    let verdicts = availability::of_each(ports, kind, budget).into_iter();
    let verdicts = verdicts.map(|verdict| (verdict != Verdict::Free).then_some(verdict));
    operands.results(verdicts, |failed| {
        let failed = failed.into_iter();
        let failed = failed.map(|(of, verdict)| (of.port, of.asker, verdict));
        diagnose::report_to_each(failed.collect())
    })
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
/// If the port is not free, or cannot be checked. The message names what blocks the port (a process
/// with its pid and the state of its socket), and says what to do. Before the panic, the call
/// retries as [`check_port_free`] does, for about 2 s at most.
#[track_caller]
pub fn assert_port_free(port: impl ToEndpoint) {
    or_panic(check_port_free(port));
}

/// Asserts that a port is free for a server of this kind.
///
/// # Panics
///
/// If the port is not free for such a server, or cannot be checked. The message is as in
/// [`assert_port_free`].
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
/// The diagnosis of the first port that is not free, or that could not be checked. If further ports
/// fail the check, [`more`](Diagnosis::more) has their diagnoses.
///
/// All ports are checked at the same time, each with the retries of [`check_port_free`], for about
/// 2 s at most. The report takes additional time.
pub fn check_ports_free<P: ToEndpoint>(
    ports: impl IntoIterator<Item = P>,
) -> Result<(), Diagnosis> {
    let results = check_each(ports, ServerKind::ReuseAddr, RetryBudget::new);
    let mut diagnoses = results.into_iter().filter_map(Result::err);
    match diagnoses.next() {
        None => Ok(()),
        Some(first) => Err(first.with_more(diagnoses.collect())),
    }
}

/// The results of [`check_port_free_for`] for several ports, in their order. The retries end after
/// `at_most`, or after about 2 s if `at_most` is longer. After retries, a last check of all ports
/// can take 100 ms more.
///
/// ```
/// use std::time::Duration;
///
/// use portlease::{ServerKind, check_each_port_free_for};
///
/// let [free, busy] = portlease::reserve_ports();
/// let server = busy.listen()?;
/// let (kind, at_most) = (ServerKind::ReuseAddr, Duration::from_secs(3));
/// let results = check_each_port_free_for([&free, &busy], kind, at_most);
/// assert!(results[0].is_ok() && results[1].is_err());
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn check_each_port_free_for<P: ToEndpoint>(
    ports: impl IntoIterator<Item = P>,
    kind: ServerKind,
    at_most: Duration,
) -> Vec<Result<(), Diagnosis>> {
    check_each(ports, kind, || RetryBudget::within(at_most))
}

/// Asserts that each of several ports is free: a preflight check before a suite.
///
/// ```
/// portlease::assert_ports_free(&portlease::reserve_ports::<3>());
/// ```
///
/// `examples/preflight.rs` is a program that checks the ports on its command line:
///
/// ```text
#[doc = include_str!("../examples/preflight.rs")]
/// ```
///
/// # Panics
///
/// If any port is not free, or cannot be checked. The message has the diagnosis of each such port.
/// Before the panic, the call retries as [`check_ports_free`] does, for about 2 s at most for all
/// ports together.
#[track_caller]
pub fn assert_ports_free<P: ToEndpoint>(ports: impl IntoIterator<Item = P>) {
    or_panic(check_ports_free(ports));
}

/// Checks that a socket listens on the port: a TCP socket that would accept a connection, or a
/// bound UDP socket without a peer. Without an address in the operand, any address of this machine
/// counts. For a `&Reservation`, the socket must listen on the reservation's
/// [`addr`](crate::Reservation::addr), 127.0.0.1.
///
/// The call reads the socket table and makes no connection, so the server does not notice the call.
/// If a packet filter redirects the port to a server elsewhere, no socket listens, and the call
/// fails. [`probe`](crate::probe) connects to that server, and
/// [`wait_until_listening`](crate::wait_until_listening) reports the redirection.
///
/// ```
/// let p = portlease::reserve_port();
/// let diagnosis = portlease::check_port_listening(&p).unwrap_err();
/// assert!(diagnosis.to_string().contains("is not listening"));
/// ```
///
/// # Errors
///
/// A [`Diagnosis`] of the port in these cases:
///
/// - Nothing listens.
/// - The socket table cannot be read.
/// - The operand names no port, or a network interface that this machine does not have.
///
/// The call checks once and never retries. To wait for a listener, call
/// [`wait_until_listening`](crate::wait_until_listening).
///
/// # Platform-specific behavior
///
/// On systems whose socket table this crate cannot read, the call fails for a UDP port. For a TCP
/// port, it tries a connection for at most 100 ms. Without an address in the operand, it connects
/// to 127.0.0.1. For `localhost`, it connects to ::1 and, if that fails, to 127.0.0.1.
pub fn check_port_listening(port: impl ToEndpoint) -> Result<(), Diagnosis> {
    only(check_each_port_listening([port]))
}

/// The results of [`check_port_listening`] for several ports, in their order. One read of the
/// socket table serves all ports of a protocol.
///
/// ```
/// let [served, silent] = portlease::reserve_ports();
/// let server = served.listen()?;
/// let results = portlease::check_each_port_listening([&served, &silent]);
/// assert!(results[0].is_ok() && results[1].is_err());
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn check_each_port_listening<P: ToEndpoint>(
    ports: impl IntoIterator<Item = P>,
) -> Vec<Result<(), Diagnosis>> {
    let operands = Operands::new(ports, listening_ports_of);
    let ports: Vec<Port> = operands.ports.iter().map(|of| of.port).collect();
    let snapshot = Snapshot::read(&ports);
    let verdict = |port: Port| match &snapshot {
        Ok(snapshot) if snapshot.listeners_of(port).is_empty() => Some(Verdict::NotListening),
        Ok(_) => None,
        Err((_, e)) => Some(Verdict::cannot_tell(e)),
    };
    let verdicts: Vec<_> = ports.iter().copied().map(verdict).collect();
    operands.results(verdicts, |failed| {
        let failed = failed.into_iter().map(|(of, verdict)| (of.port, verdict));
        diagnose::report_each(failed.collect(), &ports)
    })
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
/// If [`check_port_listening`] returns an error. The message is the diagnosis.
#[track_caller]
pub fn assert_port_listening(port: impl ToEndpoint) {
    or_panic(check_port_listening(port));
}

/// Checks that the process `pid`, or a process that it started, listens on the port. A process
/// listens if it has a TCP socket that would accept a connection, or a bound UDP socket without a
/// peer. A reservation alone does not count. A socket that `pid` shares with other processes, such
/// as an inherited one, counts as the socket of `pid`.
///
/// The call fails if an unrelated process listens on the same address with a socket of its own.
/// Overlapping addresses count as the same: a wildcard overlaps each of its addresses. Two
/// processes that set SO_REUSEPORT can listen on one address, and Linux gives some of the clients
/// to each of them.
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
/// The call checks once and never retries. It returns a [`Diagnosis`] in these cases:
///
/// - Another process listens instead of `pid` or beside it. The diagnosis names that process.
/// - Nothing listens, or the owner of the listener cannot be seen (another user's process).
/// - The operand names no port, or a network interface that this machine does not have.
/// - The socket table cannot be read.
pub fn check_port_held_by(port: impl ToEndpoint, pid: u32) -> Result<(), Diagnosis> {
    only(check_each_port_held_by([port], pid))
}

/// The results of [`check_port_held_by`] for several ports, in their order. One search of the
/// processes serves all ports.
///
/// ```
/// let [served, silent] = portlease::reserve_ports();
/// let server = served.listen()?;
/// let results = portlease::check_each_port_held_by([&served, &silent], std::process::id());
/// assert!(results[0].is_ok() && results[1].is_err());
/// # drop(server);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn check_each_port_held_by<P: ToEndpoint>(
    ports: impl IntoIterator<Item = P>,
    pid: u32,
) -> Vec<Result<(), Diagnosis>> {
    let mut expected = Expected::new(pid);
    if sockets::is_running(pid).is_ok_and(|runs| !runs) {
        expected.note_end(None);
    }
    let operands = Operands::new(ports, listening_ports_of);
    let ports: Vec<Port> = operands.ports.iter().map(|of| of.port).collect();
    let verdicts: Vec<Option<Verdict>> = match who::reachable(&ports) {
        Ok(listeners) => {
            let mut has = expected.judge();
            let of_port = |listeners: &Vec<Holder>| whose_listeners(listeners, pid, &mut has);
            listeners.iter().map(of_port).collect()
        }
        Err(e) => ports
            .iter()
            .map(|_| Some(Verdict::cannot_tell(&e)))
            .collect(),
    };
    operands.results(verdicts, |failed| {
        let failed = failed.into_iter().map(|(of, verdict)| (of.port, verdict));
        missing_listener::not_listening_each(failed.collect(), &expected, &ports)
    })
}

/// Returns the verdict on the listeners of a port, or `None` if they pass the check. `has` returns
/// `true` for an expected listener: a listener of the process `pid`, or of a process that `pid`
/// started. The check fails if no listener is expected. It also fails if the address of an
/// unexpected listener overlaps the address of an expected listener.
fn whose_listeners(
    listeners: &[Holder],
    pid: u32,
    has: &mut impl FnMut(&Holder) -> bool,
) -> Option<Verdict> {
    let (own, others): (Vec<&Holder>, Vec<&Holder>) =
        listeners.iter().partition(|socket| has(socket));
    let is_beside = |other: &&Holder| own.iter().any(|own| own.overlaps(other));
    if own.is_empty() {
        Some(Verdict::NotHeldBy(Some(pid)))
    } else if others.iter().any(is_beside) {
        Some(Verdict::SharedWithStranger(pid))
    } else {
        None
    }
}

/// Asserts that the process `pid`, or a process that it started, listens on the port, in the sense
/// of [`check_port_held_by`]. With this assertion, a test makes sure that its own server answers.
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
/// If [`check_port_held_by`] returns an error. The message is the diagnosis.
#[track_caller]
pub fn assert_port_held_by(port: impl ToEndpoint, pid: u32) {
    or_panic(check_port_held_by(port, pid));
}

/// The result for the only operand of a check.
fn only(mut results: Vec<Result<(), Diagnosis>>) -> Result<(), Diagnosis> {
    results.pop().expect("one operand has one result")
}

#[track_caller]
fn or_panic(outcome: Result<(), Diagnosis>) {
    if let Err(diagnosis) = outcome {
        panic!("{diagnosis}");
    }
}
