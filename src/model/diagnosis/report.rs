//! [`Report`]: the facts of a [`Diagnosis`] as sentences and lines.

use std::num::NonZeroU64;
use std::slice;

use super::number::Number;
use super::trial::Trials;
use super::verdict::{Cause, Verdict, named_by};
use super::{Diagnosis, Facts};
use crate::link_local;
use crate::model::endpoint::Protocol;
use crate::model::holder::Holder;
use crate::model::holder_report::{line, socket_lines};
use crate::model::holders::Holders;
use crate::model::lease_info::Lease;
use crate::model::process::Halt;
use crate::model::remedy::Remedy;
use crate::model::state::State;
use crate::model::text::{AddrText, DurationText, FORBIDDEN, IpText, connections};
use crate::retry::DAEMON_GRACE;

const NO_SUCH_ADDRESS: &str = "this machine does not have the address";

/// The facts about a port, and the remedies that follow from them.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) facts: Facts,
    pub(super) remedies: Vec<Remedy>,
    /// The reports of further ports that failed the same check.
    pub(super) more: Vec<Diagnosis>,
}

impl Report {
    /// A report without remedies. The caller derives the remedies from the report, and then sets
    /// them.
    pub(super) fn new(facts: Facts) -> Self {
        Report {
            facts,
            remedies: Vec::new(),
            more: Vec::new(),
        }
    }

    pub(super) fn cause(&self) -> String {
        let holders_headline = || {
            let holders = self.facts.holders.as_ref();
            holders.map_or_else(String::new, Holders::headline)
        };
        match &self.facts.verdict {
            Verdict::Free if self.time_wait_count() > 0 => {
                "a server that sets SO_REUSEADDR can bind the port despite TIME_WAIT".to_owned()
            }
            Verdict::Free => match self.left_connections() {
                0 => "nobody holds it".to_owned(),
                count => format!(
                    "a server that sets SO_REUSEADDR can bind the port despite {} of a server \
                     that has stopped listening",
                    connections(count)
                ),
            },
            Verdict::InUse(Cause::Reserved) => match self.leases().first() {
                Some(lease) => format!("reserved {}", lease.by()),
                None => "it was reserved during the check, and is released now".to_owned(),
            },
            Verdict::InUse(Cause::Named) => {
                self.with_lock_folder(named_by(self.facts.reserved_by.first()))
            }
            Verdict::InUse(Cause::TimeWait) => format!(
                "TIME_WAIT of {}, left by a client or by a server without SO_REUSEADDR, keeps \
                 every server from binding",
                connections(self.time_wait_count())
            ),
            Verdict::InUse(Cause::TimeWaitWithoutReuseAddr) => format!(
                "TIME_WAIT of {} keeps servers without SO_REUSEADDR from binding; a server that \
                 sets SO_REUSEADDR can bind",
                connections(self.time_wait_count())
            ),
            Verdict::InUse(Cause::Excluded) => {
                "the number lies in a range of ports that this system excludes from use (Hyper-V \
                 and WinNAT reserve such ranges)"
                    .to_owned()
            }
            Verdict::InUse(Cause::UnseenClaim) => self.with_lock_folder(
                "an unseen socket keeps only servers without SO_REUSEADDR from binding, so a \
                 process with another lock folder probably reserved the port"
                    .to_owned(),
            ),
            Verdict::InUse(Cause::Gone) => {
                "a socket held the port, or a process locked the port's lock file, until a moment \
                 ago; the port is free now"
                    .to_owned()
            }
            Verdict::InUse(Cause::Unexplained) => {
                let refused = "the system refuses the bind, and no visible socket explains why";
                let mut unseen = self.facts.holders.iter().flat_map(|all| &all.unseen);
                match unseen.find(|reason| reason.is_of_bound()) {
                    Some(reason) => format!("{refused}; {reason}"),
                    None => refused.to_owned(),
                }
            }
            Verdict::NotListening | Verdict::NotHeldBy(_) | Verdict::SharedWithStranger(_) => {
                // If the caller expects a process to listen, the reservation is usually the
                // caller's own. Then neither the reservation nor the connections of an earlier
                // server explain why nothing listens.
                let is_only_reserved = self.facts.expected.is_some()
                    && !self.leases().is_empty()
                    && self
                        .sockets_besides_claims()
                        .all(|socket| socket.remote.is_some());
                self.listeners_headline().unwrap_or_else(|| {
                    match self.facts.of_same_reserver.first() {
                        _ if !is_only_reserved => holders_headline(),
                        None => "nothing listens on it".to_owned(),
                        Some(other) => format!(
                            "nothing listens on it, but {}; one process reserved both ports",
                            other.headline()
                        ),
                    }
                })
            }
            Verdict::Unsteady(duration) => format!(
                "no listener stayed open for {}; {}",
                DurationText(*duration),
                self.last_listener()
            ),
            Verdict::InUse(Cause::Holder)
            | Verdict::Leaked
            | Verdict::UnrelatedListener
            | Verdict::RemainingListener => holders_headline(),
            Verdict::Privileged => {
                "binding this port requires a privilege this user lacks".to_owned()
            }
            Verdict::Forbidden => FORBIDDEN.to_owned(),
            Verdict::NoSuchAddress => NO_SUCH_ADDRESS.to_owned(),
            Verdict::CannotBind(text)
            | Verdict::CannotTell { text, .. }
            | Verdict::NoSuchInterface(text)
            | Verdict::Invalid(text) => text.clone(),
        }
    }

    /// If this process cannot use its own lock folder, adds the reason to the text.
    fn with_lock_folder(&self, cause: String) -> String {
        match &self.facts.unusable_lock_folder {
            Some(reason) => format!("{cause}; this process {reason}"),
            None => cause,
        }
    }

    /// Who listens now, or else who listened last.
    fn last_listener(&self) -> String {
        let is_listener = |holder: &&Holder| holder.is_server();
        let now = self.sockets_besides_claims().find(is_listener);
        match (now, &self.facts.last_listener) {
            (Some(listener), _) => listener.headline(),
            (None, Some(last)) => last.past_headline(),
            (None, None) => "an unseen process was the last to listen".to_owned(),
        }
    }

    /// Why the expected process does not listen, or which unrelated process listens beside the
    /// expected process. `None` if the check found neither.
    pub(super) fn listeners_headline(&self) -> Option<String> {
        let Facts {
            expected,
            process_of_thread,
            stranger,
            elsewhere,
            instead,
            lacks_address,
            redirected,
            halted,
            in_other_network,
            other_protocol,
            daemons,
            is_over,
            ..
        } = &self.facts;
        let (is, starts) = match is_over {
            true => ("was", "started"),
            false => ("is", "starts"),
        };
        let mut sentences = Vec::new();
        if let (Some(Some(id)), Some(pid)) = (expected, process_of_thread) {
            sentences.push(format!("{id} is a thread of pid {pid}"));
        }
        if *lacks_address {
            sentences.push(NO_SUCH_ADDRESS.to_owned());
        }
        if let Some((pid, halt)) = halted {
            let state = match halt {
                Halt::Suspended => "suspended",
                Halt::SuspendedInBackground => "suspended in the background of its terminal",
                Halt::Traced => "stopped by its debugger",
                Halt::Frozen(_) => "frozen",
            };
            sentences.push(format!("pid {pid} {is} {state}, so it {starts} no server"));
        }
        if let Some(pid) = in_other_network {
            sentences.push(format!(
                "pid {pid} {is} in another network namespace, whose ports are not visible here"
            ));
        }
        if let Some(addr) = redirected {
            // If a socket listens at another address, "no socket listens" alone would be false.
            let place = if elsewhere.is_empty() { "" } else { " there" };
            sentences.push(format!(
                "no socket listens{place}, but a connection to {} is accepted: a packet filter, \
                 such as a rule of Docker or kube-proxy, redirects the connection",
                AddrText(*addr)
            ));
        }
        if let Some(stranger) = stranger {
            sentences.push(stranger.headline());
            sentences.extend(elsewhere.first().map(Holder::elsewhere_headline));
        }
        if let Some(other) = instead.first() {
            sentences.push(format!("{} instead", other.headline()));
        } else if let (Some(other), true) = (elsewhere.first(), sentences.is_empty()) {
            let endpoint = self.facts.endpoint?;
            let (ip, scope_id) = link_local::without_scope(endpoint.ip?);
            let ip = match endpoint.is_localhost() {
                true => "localhost".to_owned(),
                false => IpText(ip, scope_id).to_string(),
            };
            let unreached = match (other.protocol, other.is_past) {
                (Protocol::Tcp, true) => format!("connections to {ip} were refused"),
                (Protocol::Tcp, false) => format!("connections to {ip} are refused"),
                (_, true) => format!("datagrams to {ip} did not reach it"),
                (_, false) => format!("datagrams to {ip} do not reach it"),
            };
            sentences.push(format!("{}; {unreached}", other.elsewhere_headline()));
        } else if let (Some(other), true) = (other_protocol, sentences.is_empty()) {
            let asked = self.facts.endpoint?.protocol?;
            sentences.push(format!("{}, not {asked}", other.protocol_headline()));
        } else if let (Some(daemon), true) = (daemons.first(), sentences.is_empty()) {
            sentences.push(format!(
                "{} still runs, and may be a daemon of the ended process; a wait gives a daemon \
                 only {} to listen",
                daemon.name_and_pid(),
                DurationText(DAEMON_GRACE)
            ));
        }
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }

    pub(super) fn headline(&self) -> String {
        let (operand, cause) = (self.operand(), self.cause());
        match &self.facts.verdict {
            Verdict::Free => format!("{operand} is free: {cause}"),
            Verdict::InUse(_) => format!("{operand} is in use: {cause}"),
            Verdict::NotListening => format!("{operand} is not listening: {cause}"),
            Verdict::Unsteady(duration) => {
                let duration = DurationText(*duration);
                let last = self.last_listener();
                format!("{operand} had no listener that stayed open for {duration}: {last}")
            }
            Verdict::NotHeldBy(Some(pid)) if self.facts.expected == Some(None) => {
                format!("{operand} is not held by pid {pid}, which does not run: {cause}")
            }
            Verdict::NotHeldBy(Some(pid)) => format!("{operand} is not held by pid {pid}: {cause}"),
            Verdict::SharedWithStranger(pid) => {
                format!("{operand} is not held by pid {pid} alone: {cause}")
            }
            Verdict::NotHeldBy(None) => {
                format!("{operand} is not held by the expected process: {cause}")
            }
            Verdict::Leaked => format!("{operand} was left listening: {cause}"),
            Verdict::RemainingListener => format!("{operand} still has a listener: {cause}"),
            Verdict::UnrelatedListener => {
                format!("{operand} has a listener of an unrelated process: {cause}")
            }
            Verdict::Privileged
            | Verdict::Forbidden
            | Verdict::NoSuchAddress
            | Verdict::CannotBind(_) => format!("{operand} cannot be bound: {cause}"),
            Verdict::CannotTell { .. } => format!("cannot check {operand}: {cause}"),
            Verdict::NoSuchInterface(_) | Verdict::Invalid(_) => cause,
        }
    }

    fn operand(&self) -> String {
        let endpoint = self.facts.endpoint;
        endpoint.map_or_else(|| "port".to_owned(), |endpoint| format!("port {endpoint}"))
    }

    pub(super) fn fact_lines(&self) -> Vec<String> {
        let Facts {
            verdict,
            holders,
            elsewhere,
            instead,
            of_same_reserver,
            number,
            trials,
            at,
            ..
        } = &self.facts;
        let mut lines = Vec::new();
        if let Some(holders) = holders {
            let time_wait_note = match verdict {
                Verdict::InUse(Cause::TimeWait) => {
                    "they end within 60 s, and keep every server from binding until then"
                }
                Verdict::Free | Verdict::InUse(Cause::TimeWaitWithoutReuseAddr) => {
                    "they end within 60 s and do not block a server that sets SO_REUSEADDR"
                }
                _ => "they end within 60 s",
            };
            lines.extend(holders.lines(&self.cause(), *at, time_wait_note));
        }
        let is_listed = |other: &&Holder| self.sockets().any(|socket| socket.inode == other.inode);
        let mut others: Vec<&Holder> = elsewhere
            .iter()
            .chain(instead)
            .chain(of_same_reserver)
            .collect();
        others.retain(|other| other.inode == 0 || !is_listed(other));
        lines.extend(socket_lines(&others, *at));
        if !trials.is_empty() {
            lines.push(line("a server", Trials(trials)));
        }
        if let Some(number) = number.as_ref().filter(|number| self.depends_on(number)) {
            lines.push(line("the number", number));
        }
        lines
    }

    /// Whether the report has the line "the number". For example, this line says whether the number
    /// is in the ephemeral range. A report with trial binds always has the line. Any other report
    /// has the line only if the number may explain the verdict. For example, a socket or TIME_WAIT
    /// may block the port because the kernel chose the number for a client.
    fn depends_on(&self, number: &Number) -> bool {
        let is_client = |socket: &Holder| socket.client || socket.may_be_client;
        match &self.facts.verdict {
            _ if !self.facts.trials.is_empty() => true,
            Verdict::Privileged | Verdict::Forbidden | Verdict::CannotBind(_) => true,
            Verdict::InUse(
                Cause::Excluded | Cause::UnseenClaim | Cause::Unexplained | Cause::Gone,
            ) => true,
            Verdict::InUse(Cause::Holder) => {
                number.is_assigned_by_the_kernel() && self.sockets().any(is_client)
            }
            Verdict::InUse(Cause::TimeWait) => number.is_assigned_by_the_kernel(),
            _ => false,
        }
    }

    pub(super) fn leases(&self) -> &[Lease] {
        self.facts.holders.as_ref().map_or(&[], Holders::leases)
    }

    pub(super) fn sockets(&self) -> slice::Iter<'_, Holder> {
        let holders = self.facts.holders.as_ref();
        holders.map(Holders::iter).unwrap_or_default()
    }

    /// The sockets on the port, the most important first. The claims (this crate's bound sockets)
    /// of the listed reservations and of the caller are left out.
    pub(super) fn sockets_besides_claims(&self) -> impl Iterator<Item = &Holder> {
        let holders = self.facts.holders.as_ref();
        let is_own_claim = |holder: &Holder| {
            let inode = NonZeroU64::new(holder.inode);
            inode.is_some() && inode == self.facts.own_claim
        };
        let is_leased =
            move |holder: &Holder| holders.is_none_or(|all| all.lease_of(holder).is_some());
        self.sockets()
            .filter(move |holder| !is_own_claim(holder) && !is_leased(holder))
    }

    /// Whether the port has the claim (this crate's bound socket) of a TCP reservation with a
    /// readable record. A claim makes the kernel refuse servers that set neither SO_REUSEADDR nor
    /// SO_REUSEPORT.
    pub(super) fn has_claim(&self) -> bool {
        let holders = self.facts.holders.as_ref();
        self.sockets().any(|socket| {
            socket.state == State::Bound
                && socket.protocol == Protocol::Tcp
                && holders.is_some_and(|all| all.lease_of(socket).is_some())
        })
    }

    fn time_wait_count(&self) -> usize {
        let is_waiting = |holder: &&Holder| holder.state == State::TimeWait;
        self.sockets().filter(is_waiting).count()
    }

    /// The number of connections that are not in TIME_WAIT. If the port is free, these connections
    /// usually belong to a server that has stopped listening.
    fn left_connections(&self) -> usize {
        let is_connection =
            |holder: &&Holder| holder.remote.is_some() && holder.state != State::TimeWait;
        self.sockets_besides_claims().filter(is_connection).count()
    }
}
