//! Assertions that a test, or other code that has ended, left no listener behind.

use std::collections::HashSet;
use std::io;

use crate::inspect::diagnose;
use crate::inspect::origin::{Origin, origin};
use crate::model::diagnosis::Diagnosis;
use crate::model::diagnosis::verdict::Verdict;
use crate::model::endpoint::Protocol;
use crate::model::error::{Error, Result};
use crate::model::port::Port;
use crate::model::port_set::PortSet;
use crate::model::process::Process;
use crate::model::state::State;
use crate::ownership::{Asker, is_descendant};
use crate::reservation::Reservation;
use crate::residual;
use crate::retry::{ResidualOwner, RetryBudget};
use crate::sockets::{self, Row, ScanDepth};

/// Runs a closure and asserts that it leaves no TCP listener behind. A listener counts if it is new
/// and belongs to this process or to a descendant, such as a forked child that never calls exec.
///
/// **For tests that are alone in their process**, as under `cargo nextest run`. Under `cargo test`
/// the listeners of other tests in the process count too. There, check a single port with
/// [`Reservation::release`](crate::Reservation::release) instead.
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
/// - If listeners are left. The message names each of them.
/// - If the socket table cannot be read.
/// - If there are new listeners but no process can be inspected, as without `/proc`.
///
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
/// - If listeners are left: a [`Diagnosis`] of the first port with such a listener.
///   [`Diagnosis::more`] returns the diagnoses of the other ports.
/// - If the socket table cannot be read.
/// - If there are new listeners but no process can be inspected, as without `/proc`.
///
/// Without the rights of root, the call misses the listeners of a descendant that runs as another
/// user.
///
/// A listener that was closed can stay open in a forked child until the child calls exec. So the
/// call retries, for about 2 s at most, while one of the listeners belongs only to such children.
/// The call reports each listener that is still open after the retries.
pub fn check_no_leaked_listeners<T>(run: impl FnOnce() -> T) -> Result<T, Diagnosis> {
    let unreadable = |e: io::Error| diagnose::without_port(Verdict::cannot_tell(&e));
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
        // Without a /proc of this pid namespace the owners of the new listeners cannot be found. So
        // the call cannot decide which listener is leaked.
        let lacks_proc = owned.unseen.iter().find(|reason| reason.is_of_proc());
        if let Some(reason) = lacks_proc
            && !owned.holders.is_empty()
        {
            let verdict = Verdict::CannotTell {
                text: reason.to_string(),
                is_denied: false,
            };
            return Err(diagnose::without_port(verdict));
        }
        let mut left = owned.holders;
        left.retain(|holder| holder.state == State::Listen);
        left.iter_mut()
            .for_each(|holder| holder.processes.retain(is_ours));
        left.retain(|holder| !holder.processes.is_empty());
        // The exec of a forked child may still close one of the listeners. So the call retries
        // before it reports any of them.
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
    /// Ends the reservation, and checks that no server still listens on its port. The reservation
    /// ends even if the check fails.
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
    ///   the server, if something still listens on the port. The report shows whether this process
    ///   or an unrelated process started the server. For a daemon this may be unknown. If no owner
    ///   is visible, the call first retries for 100 ms. Exception: it does not retry for a listener
    ///   of another user. The call retries for 2 s while only forked children that have not called
    ///   exec have the listener.
    /// - [`PermissionDenied`](crate::ErrorKind::PermissionDenied) if a sandbox forbids reading the
    ///   socket table.
    /// - [`Io`](crate::ErrorKind::Io) if the table cannot be read for another reason.
    ///
    /// # Platform-specific behavior
    ///
    /// On systems where this crate reads no socket table, the call only ends the reservation and
    /// checks nothing. On Windows the call does not retry.
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
                if !budget.pause(|| residual::owner_of_sockets(listeners.clone())) {
                    let verdict = leak_or_unrelated(listeners);
                    return Err(diagnose::report_to(asker, port, verdict).into());
                }
            }
        }
        Ok(())
    }
}

/// The verdict on the listeners that are left on the port of an ended reservation.
fn leak_or_unrelated(listeners: Vec<Row>) -> Verdict {
    let owned = sockets::owners(listeners, ScanDepth::Complete);
    let listeners = owned.map(|owned| owned.holders).unwrap_or_default();
    match origin(&listeners) {
        Origin::Own => Verdict::Leaked,
        Origin::Unrelated => Verdict::UnrelatedListener,
        Origin::Unknown => Verdict::RemainingListener,
    }
}
