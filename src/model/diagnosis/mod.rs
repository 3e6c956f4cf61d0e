//! [`Diagnosis`]: the state of a port, its cause, and the remedies.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::SystemTime;

use super::endpoint::Endpoint;
use super::error::Error;
use super::error_kind::ErrorKind;
use super::holder::Holder;
use super::holders::Holders;
use super::lease_info::Lease;
use super::process::{Halt, Process};
use super::remedy::{self, Remedy};

mod advice;
mod known_programs;
pub(crate) mod number;
mod report;
pub(crate) mod trial;
pub(crate) mod verdict;

use number::Number;
use report::Report;
use trial::Trial;
use verdict::Verdict;

/// What is known about a port: the answer, the facts and the remedies.
///
/// [`check_port_free`](crate::check_port_free) and the other checks return a diagnosis as an error.
/// [`diagnose`](crate::diagnose) returns one for any port. `Display` prints the report:
///
/// ```text
/// port 60315/tcp is in use: redis-server (pid 4242) listens on 127.0.0.1:60315
///   listening    127.0.0.1:60315    redis-server, pid 4242, user ci, started 3 min ago
/// help: stop pid 4242, or reserve another port with reserve_port()
/// ```
#[derive(Clone)]
pub struct Diagnosis(Box<Report>);

#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) verdict: Verdict,
    pub(crate) holders: Option<Holders>,
    /// Whether this machine lacks the address of the endpoint. Checked only for the verdicts
    /// `NotListening` and `NotHeldBy`, and `false` for any other verdict.
    pub(crate) lacks_address: bool,
    /// An address of this machine at which a connection to the port was accepted, although no
    /// socket listens on the endpoint.
    pub(crate) redirected: Option<SocketAddr>,
    /// Whether the caller runs as root. Root gets no remedy to retry with more permission. Always
    /// `true` on Windows, and always `false` in a report of [`of_operand`](Diagnosis::of_operand).
    pub(crate) as_root: bool,
    /// The process that was expected to listen. `None` if any process may listen. `Some(None)` if
    /// the expected process has ended.
    pub(crate) expected: Option<Option<u32>>,
    /// If the caller passed the id of a thread instead of a pid: the pid of the thread's process.
    pub(crate) process_of_thread: Option<u32>,
    /// The process that is probably the server (the expected process or a descendant), and what has
    /// stopped that process. Set only if the expected process runs and the listener is missing.
    pub(crate) halted: Option<(u32, Halt)>,
    /// The id of the process that is probably the server (the expected process or a descendant), if
    /// that process is in another network namespace. Set only if the listener is missing.
    pub(crate) in_other_network: Option<u32>,
    /// A listener on the endpoint that may be unrelated to the expected process. Neither the
    /// expected process nor a process that it started is known to own the listener. The owner of
    /// the listener may be hidden.
    pub(crate) stranger: Option<Holder>,
    /// Two process ids. The first process owns the listener `stranger`, and the caller probably
    /// meant this process. The second process is the expected process.
    pub(crate) probably_meant: Option<(u32, u32)>,
    /// Listeners on the same number that are out of reach for clients of the endpoint's address.
    /// They are bound to another address or to another interface. If `stranger` (a
    /// listener that may be unrelated) is set, this list has only listeners of the expected
    /// process.
    pub(crate) elsewhere: Vec<Holder>,
    /// Listeners of the expected process, or of a process that it started, on port numbers that the
    /// call does not name.
    pub(crate) instead: Vec<Holder>,
    /// Listeners of these processes on other ports that the process which reserved this port has
    /// reserved too. They are probably another server, but the caller may also have mixed up the
    /// two ports.
    pub(crate) of_same_reserver: Vec<Holder>,
    /// For [`Verdict::Unsteady`]: the listener that the report names if nothing listens now. It is
    /// the latest listener whose owner the wait found. If the wait found no owner, it is the first
    /// listener that the wait could read.
    pub(crate) last_listener: Option<Holder>,
    /// A server on the same number, but of the other protocol (UDP for TCP, TCP for UDP). The
    /// caller may have asked for the wrong protocol. `None` if a server of the endpoint's protocol
    /// has the number.
    pub(crate) other_protocol: Option<Holder>,
    /// Running processes that may be a daemon of the expected process, the likeliest one first.
    /// Empty if the expected process has not ended with success, or if something listens.
    pub(crate) daemons: Vec<Process>,
    /// If the port is in use by a reservation without a visible lock file: the processes that hold
    /// the reservation. They have the port's abstract Unix socket name, or they run the command
    /// `portlease` and own a socket on the port. Empty if they are hidden, and in any other report.
    pub(crate) reserved_by: Vec<Process>,
    /// Why this process cannot use its lock folder, as text such as `cannot use the lock folder …`.
    /// Set only if the port is reserved by a process with another lock folder.
    pub(crate) unusable_lock_folder: Option<String>,
    pub(crate) number: Option<Number>,
    pub(crate) trials: Vec<Trial>,
    /// The inode of the claim (this crate's bound socket) of the caller's own reservation. If that
    /// reservation has no lock file, only this field identifies the claim.
    pub(crate) own_claim: Option<NonZeroU64>,
    /// For [`Verdict::InUse`]: whether the caller already has the port. `true` if this process
    /// or an ancestor reserved the port, or if another process holds it on their behalf.
    pub(crate) is_reserved_for_asker: bool,
    /// A loopback address on which a server could bind the number, although servers have the number
    /// on other addresses. `None` if no such address was found.
    pub(crate) free_address: Option<SocketAddr>,
    /// Whether the call has ended the expected process, after the facts were gathered. Only a call
    /// that started the process ends it.
    pub(crate) is_over: bool,
    /// When the facts were gathered. The ages in the report are relative to this time.
    pub(crate) at: SystemTime,
}

impl Diagnosis {
    pub(crate) fn new(facts: Facts) -> Self {
        let mut report = Report::new(facts);
        report.remedies = advice::remedies(&report);
        Diagnosis(Box::new(report))
    }

    /// The report on an operand that names no port, or names an interface that is not found.
    pub(crate) fn of_operand(error: &Error) -> Self {
        let message = error.to_string();
        let verdict = match error.kind() {
            ErrorKind::AddressNotAvailable => Verdict::NoSuchInterface(message),
            _ => Verdict::Invalid(message),
        };
        // `NoSuchInterface` and `Invalid` have the same remedies for root and for other users. So
        // `as_root` can be `false` for both.
        Diagnosis::bare(verdict, false)
    }

    /// A report that has only a verdict. `as_root` is [`Facts::as_root`].
    pub(crate) fn bare(verdict: Verdict, as_root: bool) -> Self {
        Diagnosis::new(Facts {
            endpoint: None,
            verdict,
            holders: None,
            lacks_address: false,
            redirected: None,
            as_root,
            expected: None,
            process_of_thread: None,
            halted: None,
            in_other_network: None,
            stranger: None,
            probably_meant: None,
            elsewhere: Vec::new(),
            instead: Vec::new(),
            of_same_reserver: Vec::new(),
            last_listener: None,
            other_protocol: None,
            daemons: Vec::new(),
            reserved_by: Vec::new(),
            unusable_lock_folder: None,
            number: None,
            trials: Vec::new(),
            own_claim: None,
            is_reserved_for_asker: false,
            free_address: None,
            is_over: false,
            at: SystemTime::now(),
        })
    }

    /// Removes the remedies to wait for a listener and to queue for the port, because the call has
    /// just waited and timed out. If the pid of the reservation's holder is known, the remedy to
    /// end the reservation replaces the remedy to queue.
    pub(crate) fn without_waits(mut self) -> Self {
        let after_wait = |remedy| match remedy {
            Remedy::Queue { endpoint, pid } => {
                pid.map(|pid| Remedy::EndReservation { endpoint, pid })
            }
            Remedy::WaitUntilListening { .. } => None,
            other => Some(other),
        };
        let remedies = std::mem::take(&mut self.0.remedies).into_iter();
        self.0.remedies = remedies.filter_map(after_wait).collect();
        self
    }

    /// Adds processes that may be a daemon of the expected process.
    pub(crate) fn with_daemons(mut self, daemons: Vec<Process>) -> Self {
        if !daemons.is_empty() {
            self.0.facts.daemons = daemons;
            self.0.remedies = advice::remedies(&self.0);
        }
        self
    }

    /// The report of a call that expected a program to listen, and then ended the program. The text
    /// describes the program in the past tense, and omits the remedies that need a running program.
    /// `has_ended` returns whether the process with this pid has ended.
    pub(crate) fn after_end(mut self, has_ended: impl Fn(u32) -> bool) -> Self {
        let facts = &mut self.0.facts;
        let on_port = facts.holders.iter_mut().flat_map(Holders::iter_mut);
        let others = facts.elsewhere.iter_mut().chain(&mut facts.instead);
        let others = others.chain(&mut facts.of_same_reserver);
        let single = facts.stranger.iter_mut().chain(&mut facts.other_protocol);
        for holder in on_port.chain(others).chain(single) {
            let mut pids = holder.processes.iter().map(|process| process.pid);
            holder.is_past = !holder.processes.is_empty() && pids.all(&has_ended);
        }
        facts.daemons.retain(|daemon| !has_ended(daemon.pid));
        facts.is_over = facts.expected.flatten().is_none_or(has_ended);
        self.0.remedies = advice::remedies(&self.0);
        self.without_waits()
    }

    /// Adds a remedy for a wait that timed out while it blocked a thread of an async runtime. A
    /// server that is a task of that runtime may have been unable to run. The remedy names `call`,
    /// the function of `portlease::tokio` to use instead. A report without remedies stays
    /// unchanged.
    pub(crate) fn after_blocking_runtime(mut self, call: &'static str) -> Self {
        if !self.0.remedies.is_empty() {
            self.0.remedies.push(Remedy::UnblockRuntime { call });
        }
        self
    }

    /// Why the expected listener is missing. If it is not missing, the text names the unrelated
    /// process that also listens. `None` if the check found no reason and no unrelated process.
    pub(crate) fn listeners_headline(&self) -> Option<String> {
        self.0.listeners_headline()
    }

    pub(crate) fn with_more(mut self, more: Vec<Diagnosis>) -> Self {
        self.0.more = more;
        self
    }

    /// The endpoint that was checked. `None` in three cases:
    ///
    /// - The operand named no port.
    /// - The network interface of the operand was not found.
    /// - [`check_no_leaked_listeners`](crate::check_no_leaked_listeners) could not search for
    ///   leaks.
    ///
    /// ```
    /// let endpoint = portlease::diagnose("60315/udp").endpoint().unwrap();
    /// assert_eq!((endpoint.port, endpoint.protocol), (60315, Some(portlease::Protocol::Udp)));
    /// assert!(portlease::diagnose("no port").endpoint().is_none());
    /// ```
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.0.facts.endpoint
    }

    /// Whether the port is free: a server could bind it now, and no reservation blocks it. On Unix,
    /// this means a TCP server that sets SO_REUSEADDR, or a UDP server that sets no reuse option.
    ///
    /// A reservation does not block the port if the caller or an ancestor made it, or if it was
    /// made [on behalf](crate::ReserveOptions::on_behalf_of) of one of them. Exception: for a
    /// `&Reservation`, every other reservation blocks.
    ///
    /// Only a report of [`diagnose`](crate::diagnose) can be about a free port. For the error of a
    /// check, the result is always `false`.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let diagnosis = portlease::diagnose(&p);
    /// assert!(!diagnosis.is_free());
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_free(&self) -> bool {
        self.0.facts.verdict == Verdict::Free
    }

    /// Whether the answer is certain: `false` if the check could not be started or completed. The
    /// result is `true` for a rejected operand: the operand names no port, or its interface is
    /// missing or cannot be looked up.
    ///
    /// ```
    /// let free = portlease::check_port_free("9/udplite"); // a check never binds UDP-Lite ports
    /// assert!(!free.unwrap_err().could_tell());
    /// ```
    pub fn could_tell(&self) -> bool {
        !matches!(self.0.facts.verdict, Verdict::CannotTell { .. })
    }

    /// Whether the expected process shares the port with an unrelated process. The expected
    /// process, or a process that it started, listens on the port. The unrelated process also
    /// listens on the port, on an overlapping address. The result is `true` only in the
    /// report of a check for a process, such as [`check_port_held_by`](crate::check_port_held_by).
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let silent = portlease::check_port_held_by(&p, std::process::id()).unwrap_err();
    /// assert!(!silent.is_shared_with_stranger()); // nothing listens
    /// ```
    pub fn is_shared_with_stranger(&self) -> bool {
        matches!(self.0.facts.verdict, Verdict::SharedWithStranger(_))
    }

    /// The sockets that match the number, the protocol and the address of the
    /// [`endpoint`](Diagnosis::endpoint), with their processes. Sockets that could not be read are
    /// missing. `None` if the report has no endpoint.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let diagnosis = portlease::diagnose(&p);
    /// # if cfg!(target_os = "linux") {
    /// let holders = diagnosis.holders().unwrap();
    /// assert!(holders.iter().any(|holder| holder.local == p.addr()));
    /// # }
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn holders(&self) -> Option<&Holders> {
        self.0.facts.holders.as_ref()
    }

    /// The reservations of the port.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let diagnosis = portlease::diagnose(&p);
    /// assert_eq!(diagnosis.leases()[0].port(), p.port());
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn leases(&self) -> &[Lease] {
        self.0.leases()
    }

    /// The cause of the answer, in one sentence. It is the end of the
    /// [`headline`](Diagnosis::headline).
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let diagnosis = portlease::diagnose(&p);
    /// println!("{}", diagnosis.cause()); // my-test (pid 4100) listens on 127.0.0.1:41023
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn cause(&self) -> String {
        self.0.cause()
    }

    /// The remedies, the most direct first; empty if no remedy is needed or known.
    ///
    /// ```
    /// use portlease::Remedy;
    ///
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let diagnosis = portlease::diagnose(&p);
    /// assert_eq!(diagnosis.remedies()[0], Remedy::CloseOwnSocket);
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn remedies(&self) -> &[Remedy] {
        &self.0.remedies
    }

    /// The remedies in one line; `None` if no remedy is needed or known. A remedy that is a call of
    /// this crate appears as that call, such as `reserve_port()`.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let diagnosis = portlease::diagnose(&p);
    /// // stop pid 4100, or reserve another port with reserve_port()
    /// println!("{}", diagnosis.help().unwrap());
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn help(&self) -> Option<String> {
        remedy::in_one_line(&self.0.remedies)
    }

    /// The first line of the report: the answer with its cause.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// assert!(portlease::diagnose(&p).headline().starts_with("port "));
    /// ```
    pub fn headline(&self) -> String {
        self.0.headline()
    }

    /// The lines of the report between the headline and the help. Each line has two spaces, a label
    /// that is padded to 13 columns, and a fact.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// for line in portlease::diagnose(&p).facts() {
    ///     println!("{line}");
    /// }
    /// ```
    pub fn facts(&self) -> Vec<String> {
        self.0.fact_lines()
    }

    /// The reports of the other ports that failed the same check.
    ///
    /// A check of several ports, such as [`check_ports_free`](crate::check_ports_free), returns one
    /// diagnosis. That diagnosis reports the first port that failed, and `more` returns the reports
    /// of the other failed ports.
    ///
    /// ```
    /// let [p, q] = portlease::reserve_ports();
    /// let servers = (p.listen()?, q.listen()?);
    /// let diagnosis = portlease::check_ports_free([&p, &q]).unwrap_err();
    /// assert_eq!(diagnosis.more().len(), 1);
    /// # drop(servers);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn more(&self) -> &[Diagnosis] {
        &self.0.more
    }

    pub(crate) fn error_kind(&self) -> ErrorKind {
        match &self.0.facts.verdict {
            Verdict::InUse(_)
            | Verdict::NotHeldBy(_)
            | Verdict::SharedWithStranger(_)
            | Verdict::Leaked
            | Verdict::UnrelatedListener
            | Verdict::RemainingListener => ErrorKind::InUse,
            Verdict::Privileged | Verdict::Forbidden => ErrorKind::PermissionDenied,
            Verdict::NoSuchAddress | Verdict::NoSuchInterface(_) => ErrorKind::AddressNotAvailable,
            Verdict::Invalid(_) => ErrorKind::InvalidPort,
            Verdict::Free
            | Verdict::NotListening
            | Verdict::Unsteady(_)
            | Verdict::CannotBind(_)
            | Verdict::CannotTell { .. } => ErrorKind::Io,
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        self.fmt_below_headline(f)
    }
}

impl Diagnosis {
    pub(crate) fn fmt_below_headline(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.facts() {
            write!(f, "\n{line}")?;
        }
        if let Some(help) = self.help() {
            write!(f, "\nhelp: {help}")?;
        }
        for more in self.more() {
            write!(f, "\n{more}")?;
        }
        Ok(())
    }
}

/// Prints the report, so that the panic of an `unwrap` shows it. `{:#?}` prints the structure.
impl fmt::Debug for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            fmt::Debug::fmt(&*self.0, f)
        } else {
            fmt::Display::fmt(self, f)
        }
    }
}

impl std::error::Error for Diagnosis {}
