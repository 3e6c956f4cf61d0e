//! [`Diagnosis`]: what is known about a port, why it is so, and what helps.

use std::fmt;
use std::num::NonZeroU64;
use std::slice;
use std::time::SystemTime;

use super::endpoint::Endpoint;
use super::error_kind::ErrorKind;
use super::holder::Holder;
use super::holder_report::line;
use super::holders::Holders;
use super::lease_info::Lease;
use super::remedy::{self, Remedy};
use super::state::State;
use super::text::connections;

mod advice;
pub(crate) mod number;
pub(crate) mod trial;
pub(crate) mod verdict;

use number::Number;
use trial::{Trial, Trials};
use verdict::{Cause, Verdict};

/// What is known about a port: the answer in one line, then the facts, then what helps.
///
/// [`check_port_free`](crate::check_port_free) and the other checks return it as an error,
/// [`diagnose`](crate::diagnose) returns it for any port. `Display` is the report:
///
/// ```text
/// port 60315/tcp is in use: redis-server (pid 4242) listens on 127.0.0.1:60315
///   listening    127.0.0.1:60315    redis-server, pid 4242, user ci, started 3 min ago
///   the number   dynamic (RFC 6335), inside this machine's ephemeral range 32768-60999
/// help: stop pid 4242, or reserve another port with reserve_port()
/// ```
#[derive(Clone)]
pub struct Diagnosis(Box<Report>);

#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) verdict: Verdict,
    pub(crate) holders: Option<Holders>,
    pub(crate) number: Option<Number>,
    pub(crate) trials: Vec<Trial>,
    /// The inode of the caller's own claim, which may have no record.
    pub(crate) own_claim: Option<NonZeroU64>,
    /// When the facts were gathered: the ages in the report are relative to it.
    pub(crate) at: SystemTime,
}

/// A report, and what follows from it.
#[derive(Clone, Debug)]
struct Report {
    facts: Facts,
    remedies: Vec<Remedy>,
    /// The reports of further ports that failed the same check.
    more: Vec<Diagnosis>,
}

impl Diagnosis {
    pub(crate) fn new(facts: Facts) -> Self {
        let mut report = Report {
            facts,
            remedies: Vec::new(),
            more: Vec::new(),
        };
        report.remedies = advice::remedies(&report);
        Diagnosis(Box::new(report))
    }

    pub(crate) fn invalid(message: String) -> Self {
        Diagnosis::bare(None, Verdict::Invalid(message))
    }

    /// A verdict without facts.
    pub(crate) fn bare(endpoint: Option<Endpoint>, verdict: Verdict) -> Self {
        Diagnosis::new(Facts {
            endpoint,
            verdict,
            holders: None,
            number: None,
            trials: Vec::new(),
            own_claim: None,
            at: SystemTime::now(),
        })
    }

    /// Adds the commonest reason for a wait that never ends.
    pub(crate) fn after_a_wait(mut self) -> Self {
        if !self.0.remedies.is_empty() {
            self.0.remedies.push(Remedy::UnblockRuntime);
        }
        self
    }

    pub(crate) fn with_more(mut self, more: Vec<Diagnosis>) -> Self {
        self.0.more = more;
        self
    }

    /// What was asked about; `None` if the operand named no port.
    ///
    /// ```
    /// let endpoint = portlease::diagnose("60315/udp").endpoint().unwrap();
    /// assert_eq!((endpoint.port, endpoint.protocol), (60315, Some(portlease::Protocol::Udp)));
    /// assert!(portlease::diagnose("no port").endpoint().is_none());
    /// ```
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.0.facts.endpoint
    }

    /// Whether a server of the usual kind (SO_REUSEADDR on Unix) could bind the port now, and no
    /// other process has reserved it.
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

    /// Whether the answer is certain: `false` if something could not be read that could change it.
    ///
    /// ```
    /// let free = portlease::check_port_free("9/udplite"); // such ports are never bound
    /// assert!(!free.unwrap_err().could_tell());
    /// ```
    pub fn could_tell(&self) -> bool {
        !matches!(self.0.facts.verdict, Verdict::CannotTell(_))
    }

    /// Every socket on the port, with its processes; `None` if nothing was looked up.
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

    /// Why it is so, in one sentence without the operand.
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

    /// What helps, the most direct remedy first; empty if nothing needs help.
    ///
    /// ```
    /// use portlease::Remedy;
    ///
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let diagnosis = portlease::diagnose(&p);
    /// assert!(matches!(diagnosis.remedies()[0], Remedy::StopProcess { .. }));
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn remedies(&self) -> &[Remedy] {
        &self.0.remedies
    }

    /// The remedies in one line, as calls of this crate; `None` if nothing needs help.
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

    /// The lines between the headline and the help: a label in a column of its own, then the fact.
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

    /// The reports of the further ports that failed the same check, as
    /// [`check_ports_free`](crate::check_ports_free) returns them.
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
            Verdict::InUse(_) | Verdict::NotHeldBy(_) | Verdict::Leaked => ErrorKind::InUse,
            Verdict::Privileged => ErrorKind::PermissionDenied,
            Verdict::NoSuchAddress => ErrorKind::AddressNotAvailable,
            Verdict::Invalid(_) => ErrorKind::InvalidPort,
            Verdict::Free
            | Verdict::NotListening
            | Verdict::CannotBind(_)
            | Verdict::CannotTell(_) => ErrorKind::Io,
        }
    }
}

impl Report {
    fn cause(&self) -> String {
        let headline = || {
            let holders = self.facts.holders.as_ref();
            holders.map_or_else(String::new, Holders::headline)
        };
        match &self.facts.verdict {
            Verdict::Free if self.waiting() > 0 => {
                "connections that its server left in TIME_WAIT do not stop a server that sets \
                 SO_REUSEADDR"
                    .to_owned()
            }
            Verdict::Free => match self.left_connected() {
                0 => "nobody holds it".to_owned(),
                left => format!(
                    "{} of a server that has stopped listening; they do not stop a server that \
                     sets SO_REUSEADDR",
                    connections(left)
                ),
            },
            Verdict::InUse(Cause::Reserved) => match self.leases().first() {
                Some(lease) => format!("reserved {}", lease.by()),
                None => headline(),
            },
            Verdict::InUse(Cause::Named) => {
                "reserved by a process whose record cannot be read here (it uses another lock \
                 folder)"
                    .to_owned()
            }
            Verdict::InUse(Cause::TimeWait) => format!(
                "TIME_WAIT of {}, left by a client or by a server without SO_REUSEADDR, refuses \
                 every server",
                connections(self.waiting())
            ),
            Verdict::InUse(Cause::Excluded) => {
                "the number lies in a range of ports that this system excludes from use (Hyper-V \
                 and WinNAT reserve such ranges)"
                    .to_owned()
            }
            Verdict::InUse(Cause::Unexplained) => {
                "the bind is refused, and no visible socket explains it".to_owned()
            }
            Verdict::InUse(Cause::Holder)
            | Verdict::NotListening
            | Verdict::NotHeldBy(_)
            | Verdict::Leaked => headline(),
            Verdict::Privileged => {
                "binding this port requires a privilege this user lacks".to_owned()
            }
            Verdict::NoSuchAddress => "this machine does not have the address".to_owned(),
            Verdict::CannotBind(text) | Verdict::CannotTell(text) | Verdict::Invalid(text) => {
                text.clone()
            }
        }
    }

    fn headline(&self) -> String {
        let (operand, cause) = (self.operand(), self.cause());
        match &self.facts.verdict {
            Verdict::Free => format!("{operand} is free: {cause}"),
            Verdict::InUse(_) => format!("{operand} is in use: {cause}"),
            Verdict::NotListening => format!("{operand} is not listening: {cause}"),
            Verdict::NotHeldBy(pid) => format!("{operand} is not held by pid {pid}: {cause}"),
            Verdict::Leaked => format!("{operand} was left listening: {cause}"),
            Verdict::Privileged | Verdict::NoSuchAddress | Verdict::CannotBind(_) => {
                format!("{operand} cannot be bound: {cause}")
            }
            Verdict::CannotTell(_) => format!("cannot check {operand}: {cause}"),
            Verdict::Invalid(_) => cause,
        }
    }

    fn operand(&self) -> String {
        let endpoint = self.facts.endpoint;
        endpoint.map_or_else(|| "port".to_owned(), |endpoint| format!("port {endpoint}"))
    }

    fn fact_lines(&self) -> Vec<String> {
        let Facts {
            verdict,
            holders,
            number,
            trials,
            at,
            ..
        } = &self.facts;
        let mut lines = Vec::new();
        if let Some(holders) = holders {
            let waiting = match verdict {
                Verdict::InUse(Cause::TimeWait) => {
                    "they end within 60 s, and refuse every server until then"
                }
                Verdict::Free | Verdict::InUse(_) => {
                    "they end within 60 s and do not stop a server that sets SO_REUSEADDR"
                }
                _ => "they end within 60 s",
            };
            lines.extend(holders.lines(*at, waiting));
        }
        if !trials.is_empty() {
            lines.push(line("a server", Trials(trials)));
        }
        if let Some(number) = number {
            lines.push(line("the number", number));
        }
        lines
    }

    fn leases(&self) -> &[Lease] {
        self.facts.holders.as_ref().map_or(&[], Holders::leases)
    }

    fn sockets(&self) -> slice::Iter<'_, Holder> {
        let holders = self.facts.holders.as_ref();
        holders.map(Holders::iter).unwrap_or_default()
    }

    /// The sockets that are not a reservation's own, the most important first.
    fn foreign(&self) -> impl Iterator<Item = &Holder> {
        let holders = self.facts.holders.as_ref();
        let is_own = |holder: &Holder| {
            let inode = NonZeroU64::new(holder.inode);
            inode.is_some() && inode == self.facts.own_claim
        };
        let is_leased =
            move |holder: &Holder| holders.is_none_or(|all| all.lease_of(holder).is_some());
        self.sockets()
            .filter(move |holder| !is_own(holder) && !is_leased(holder))
    }

    fn waiting(&self) -> usize {
        let waits = |holder: &&Holder| holder.state == State::TimeWait;
        self.sockets().filter(waits).count()
    }

    /// Connections whose listener is gone.
    fn left_connected(&self) -> usize {
        let is_left = |holder: &&Holder| holder.remote.is_some() && holder.state != State::TimeWait;
        self.foreign().filter(is_left).count()
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

/// The report, so that a failed `unwrap` reads well; `{:#?}` shows the structure.
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
