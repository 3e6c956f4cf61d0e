//! [`Diagnosis`]: what is known about a port, why it is so, and what helps.

use std::fmt;
use std::slice;
use std::time::SystemTime;

use crate::model::endpoint::Endpoint;
use crate::model::holder::{Holder, Holders, State, connections, line};
use crate::model::record::Lease;

mod number;

use number::Trials;
pub(crate) use number::{Number, Trial};

/// What is known about a port: the answer in one line, then the facts, then what helps.
///
/// [`check_port_free`](crate::check_port_free) and its kin return it as an error, [`diagnose`](crate::diagnose)
/// returns it for any port. `Display` is the report:
///
/// ```text
/// port 60315/tcp is in use: redis-server (pid 4242) listens on 127.0.0.1:60315
///   listening    127.0.0.1:60315    redis-server, pid 4242, user ci, started 3 min before
///   the number   dynamic (RFC 6335), inside this machine's ephemeral range 32768-60999
/// help: stop pid 4242, or take any free port with reserve_port()
/// ```
#[derive(Clone)]
pub struct Diagnosis(Box<Facts>);

#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) verdict: Verdict,
    pub(crate) holders: Option<Holders>,
    pub(crate) number: Option<Number>,
    pub(crate) trials: Vec<Trial>,
    /// The socket of the asker's own claim, which no record need tell; 0 is none.
    pub(crate) own_claim: u64,
    /// They were gathered when a wait had run out.
    pub(crate) waited: bool,
    /// When the facts were gathered: the ages in the report are relative to it.
    pub(crate) at: SystemTime,
    /// Those of further ports that failed the same check.
    pub(crate) more: Vec<Diagnosis>,
}

/// What the facts amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A server that follows the system's custom could bind it now.
    Free,
    InUse(Cause),
    NotListening,
    /// Not by this process, nor by one that descends from it.
    NotHeldBy(u32),
    /// Listeners that a piece of code left behind.
    Leaked,
    /// The port takes a privilege that this user does not have.
    Privileged,
    /// This machine does not have the address.
    NoSuchAddress,
    /// The system refuses the bind for another reason that has nothing to do with who holds the port.
    CannotBind(String),
    /// Something could not be looked at that could change the answer.
    CannotTell(String),
    /// The operand names no port.
    Invalid(String),
}

/// What keeps a port from being free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The first of the holders says it.
    Holder,
    /// A live lease, and no socket but its own.
    Reserved,
    /// A reservation whose lease is not seen here: one of a container with another lock folder.
    Named,
    /// Nothing but connections in TIME_WAIT of a client, or of a server without SO_REUSEADDR.
    TimeWait,
    /// The system keeps the number from everybody: one of Windows' excluded ranges.
    Excluded,
    /// The bind is refused, and nothing that was seen tells why.
    Unexplained,
}

impl Diagnosis {
    pub(crate) fn new(facts: Facts) -> Self {
        Diagnosis(Box::new(facts))
    }

    pub(crate) fn invalid(message: String) -> Self {
        Diagnosis::bare(None, Verdict::Invalid(message))
    }

    pub(crate) fn bare(endpoint: Option<Endpoint>, verdict: Verdict) -> Self {
        Diagnosis::new(Facts {
            endpoint,
            verdict,
            holders: None,
            number: None,
            trials: Vec::new(),
            own_claim: 0,
            waited: false,
            at: SystemTime::now(),
            more: Vec::new(),
        })
    }

    pub(crate) fn after_a_wait(mut self) -> Self {
        self.0.waited = true;
        self
    }

    pub(crate) fn with_more(mut self, more: Vec<Diagnosis>) -> Self {
        self.0.more = more;
        self
    }

    /// What was asked about; `None` where the operand named no port.
    ///
    /// ```
    /// let endpoint = portlease::diagnose("60315/udp").endpoint().unwrap();
    /// assert_eq!((endpoint.port, endpoint.protocol), (60315, Some(portlease::Protocol::Udp)));
    /// assert!(portlease::diagnose("no port").endpoint().is_none());
    /// ```
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.0.endpoint
    }

    /// Whether a server that follows the system's custom could bind the port now, and nobody else has reserved it.
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
        self.0.verdict == Verdict::Free
    }

    /// Whether that is an answer: `false` where something could not be looked at that could change it.
    ///
    /// ```
    /// let free = portlease::check_port_free("9/udplite"); // such ports are only looked at, never bound
    /// assert!(!free.unwrap_err().could_tell());
    /// ```
    pub fn could_tell(&self) -> bool {
        !matches!(self.0.verdict, Verdict::CannotTell(_))
    }

    /// Every socket on the port, with its processes; `None` where nothing could be looked at.
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
        self.0.holders.as_ref()
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
        self.0.holders.as_ref().map_or(&[], Holders::leases)
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
        let facts = &*self.0;
        let headline = || {
            facts
                .holders
                .as_ref()
                .map_or_else(String::new, Holders::headline)
        };
        match &facts.verdict {
            Verdict::Free if self.waiting() > 0 => {
                "what its server left in TIME_WAIT does not stop a server that sets SO_REUSEADDR".to_owned()
            }
            Verdict::Free => match self.left_connected() {
                0 => "nobody holds it".to_owned(),
                left => format!(
                    "{} of a server that has stopped listening, in the way of no server that sets SO_REUSEADDR",
                    connections(left)
                ),
            },
            Verdict::InUse(Cause::Holder) => headline(),
            Verdict::InUse(Cause::Reserved) => match self.leases().first() {
                Some(lease) => format!("reserved {}", lease.by()),
                None => headline(),
            },
            Verdict::InUse(Cause::Named) => {
                "reserved by a process whose record cannot be seen here (its lock folder is another one)"
                    .to_owned()
            }
            Verdict::InUse(Cause::TimeWait) => format!(
                "TIME_WAIT of {}, left by a client or by a server without SO_REUSEADDR, keeps everybody out",
                connections(self.waiting())
            ),
            Verdict::InUse(Cause::Excluded) => {
                "the number lies in a range of ports that this system excludes from use (Hyper-V and WinNAT take \
                 such ranges)"
                    .to_owned()
            }
            Verdict::InUse(Cause::Unexplained) => {
                "the bind is refused, and no socket that can be seen explains it".to_owned()
            }
            Verdict::NotListening | Verdict::NotHeldBy(_) | Verdict::Leaked => headline(),
            Verdict::Privileged => {
                "ports of this number take a privilege that this user does not have".to_owned()
            }
            Verdict::NoSuchAddress => "this machine does not have the address".to_owned(),
            Verdict::CannotBind(text) | Verdict::CannotTell(text) | Verdict::Invalid(text) => text.clone(),
        }
    }

    /// What helps, in one line; `None` where nothing needs help.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let diagnosis = portlease::diagnose(&p);
    /// println!("{}", diagnosis.help().unwrap()); // stop pid 4100, or take any free port with reserve_port()
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn help(&self) -> Option<String> {
        let facts = &*self.0;
        let port = facts.endpoint.map_or(0, |endpoint| endpoint.port);
        let text = match &facts.verdict {
            Verdict::Free => return None,
            // The first is the most important one.
            Verdict::InUse(Cause::Holder) => match self.foreign().next() {
                Some(holder) => holder_help(holder, port),
                None => "take any free port with reserve_port()".to_owned(),
            },
            Verdict::InUse(Cause::Reserved | Cause::Named) => format!(
                "queue for it with ReserveOptions::new().port({port}).wait(..), or take any free port with \
                 reserve_port()"
            ),
            Verdict::InUse(Cause::TimeWait) => {
                "wait until it ends, within 60 s, or take any free port with reserve_port()".to_owned()
            }
            Verdict::InUse(Cause::Excluded) => {
                "take any free port with reserve_port(), or see netsh interface ipv4 show excludedportrange tcp"
                    .to_owned()
            }
            Verdict::InUse(Cause::Unexplained) => {
                "try again as root, who may see more, or take any free port with reserve_port()".to_owned()
            }
            Verdict::NotListening => {
                format!("start the server first; wait_until_listening({port}, ..) waits until it listens")
            }
            Verdict::NotHeldBy(_) if self.sockets().any(|holder| holder.hidden) => {
                "ask again as root, who may see the process".to_owned()
            }
            Verdict::NotHeldBy(pid) if self.foreign().any(|holder| !holder.processes.is_empty()) => {
                format!("look which server pid {pid} was told to start, and on which port")
            }
            Verdict::NotHeldBy(_) => {
                format!("start the server first; wait_until_listening({port}, ..) waits until it listens")
            }
            Verdict::Leaked => "stop each server before its test ends".to_owned(),
            Verdict::Privileged => format!(
                "take any free port with reserve_port(), or run as root, or set \
                 net.ipv4.ip_unprivileged_port_start to {port} or less"
            ),
            Verdict::NoSuchAddress => "name an address that this machine has, or none".to_owned(),
            Verdict::CannotBind(_) => "take any free port with reserve_port()".to_owned(),
            Verdict::CannotTell(_) => {
                "ask again where the system lets you look, as root if need be".to_owned()
            }
            Verdict::Invalid(_) => {
                "name a port as 60315, 60315/udp, 127.0.0.1:60315 or [::1]:60315/tcp".to_owned()
            }
        };
        Some(match facts.waited {
            // The commonest reason for a wait that never ends.
            true => {
                format!(
                    "{text}; on a current-thread async runtime nothing else runs while this thread waits"
                )
            }
            false => text,
        })
    }

    /// The first line of the report.
    pub(crate) fn answer(&self) -> String {
        let facts = &*self.0;
        let (operand, cause) = (self.operand(), self.cause());
        match &facts.verdict {
            Verdict::Free => format!("{operand} is free: {cause}"),
            Verdict::InUse(_) => format!("{operand} is in use: {cause}"),
            Verdict::NotListening => format!("{operand} is not listening: {cause}"),
            Verdict::NotHeldBy(pid) => format!("{operand} is not held by pid {pid}: {cause}"),
            Verdict::Leaked => format!("{operand} was left listening: {cause}"),
            Verdict::Privileged | Verdict::NoSuchAddress | Verdict::CannotBind(_) => {
                format!("{operand} cannot be bound: {cause}")
            }
            Verdict::CannotTell(_) => format!("cannot tell about {operand}: {cause}"),
            Verdict::Invalid(_) => cause,
        }
    }

    fn operand(&self) -> String {
        self.0
            .endpoint
            .map_or_else(|| "port".to_owned(), |endpoint| format!("port {endpoint}"))
    }

    fn waiting(&self) -> usize {
        self.sockets()
            .filter(|holder| holder.state == State::TimeWait)
            .count()
    }

    /// Connections that nobody listens for any more.
    fn left_connected(&self) -> usize {
        self.foreign()
            .filter(|h| h.remote.is_some() && h.state != State::TimeWait)
            .count()
    }

    /// Whether what is in the way is gone since, or all of it is of the kind that `passing` says will be.
    pub(crate) fn passes(&self, passing: impl Fn(&Holder) -> bool) -> bool {
        match self.0.verdict {
            // Gone between the bind that it refused and the look; or let go, but for a child that is about to exec.
            Verdict::InUse(Cause::Unexplained | Cause::Named) => return true,
            Verdict::InUse(Cause::Holder) | Verdict::Leaked => {}
            _ => return false,
        }
        if self.0.holders.is_none() {
            return false;
        }
        if self.foreign().any(has_it_bound) {
            self.foreign()
                .all(|holder| !has_it_bound(holder) || passing(holder))
        } else {
            self.left_connected() == 0
        }
    }

    /// Whether some process is known to be in the way.
    pub(crate) fn names_processes(&self) -> bool {
        self.foreign().any(|holder| !holder.processes.is_empty())
    }

    /// Whether nothing but the name of a reservation is known to be in the way.
    pub(crate) fn blames_a_name(&self) -> bool {
        self.0.verdict == Verdict::InUse(Cause::Named)
    }

    /// Whether of all that was found connections alone can be in the way.
    pub(crate) fn blames_connections(&self) -> bool {
        self.0.verdict == Verdict::InUse(Cause::Holder) && !self.foreign().any(has_it_bound)
    }

    fn sockets(&self) -> slice::Iter<'_, Holder> {
        self.0
            .holders
            .as_ref()
            .map(Holders::iter)
            .unwrap_or_default()
    }

    /// The sockets that are not a reservation's own, the most important first.
    fn foreign(&self) -> impl Iterator<Item = &Holder> {
        let holders = self.0.holders.as_ref();
        let is_own = |holder: &Holder| holder.inode != 0 && holder.inode == self.0.own_claim;
        let is_leased =
            move |holder: &Holder| holders.is_none_or(|all| all.lease_of(holder).is_some());
        self.sockets()
            .filter(move |holder| !is_own(holder) && !is_leased(holder))
    }
}

fn has_it_bound(holder: &Holder) -> bool {
    matches!(holder.state, State::Listen | State::Bound)
}

fn holder_help(holder: &Holder, port: u16) -> String {
    if holder.client {
        return format!(
            "it is a client's outgoing port: take any free port with reserve_port(), or withhold the number with \
             sysctl net.ipv4.ip_local_reserved_ports={port}"
        );
    }
    match holder.processes.first() {
        Some(process) => format!(
            "stop pid {}, or take any free port with reserve_port()",
            process.pid
        ),
        None if holder.hidden => {
            "ask again as root, who may see the process, or take any free port with reserve_port()"
                .to_owned()
        }
        None => "wait until the kernel has closed it, or take any free port with reserve_port()"
            .to_owned(),
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.answer())?;
        self.fmt_facts(f)
    }
}

impl Diagnosis {
    /// The report without its first line.
    pub(crate) fn fmt_facts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &*self.0;
        if let Some(holders) = &facts.holders {
            let waiting = match facts.verdict {
                Verdict::InUse(Cause::TimeWait) => {
                    "they end within 60 s, and keep everybody out until then"
                }
                Verdict::Free | Verdict::InUse(_) => {
                    "they end within 60 s and do not stop a server that sets SO_REUSEADDR"
                }
                // Whom they keep out was not asked.
                _ => "they end within 60 s",
            };
            for line in holders.lines(facts.at, waiting) {
                write!(f, "\n{line}")?;
            }
        }
        if !facts.trials.is_empty() {
            write!(f, "\n{}", line("a server", Trials(&facts.trials)))?;
        }
        if let Some(number) = &facts.number {
            write!(f, "\n{}", line("the number", number))?;
        }
        if let Some(help) = self.help() {
            write!(f, "\nhelp: {help}")?;
        }
        for more in &facts.more {
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
