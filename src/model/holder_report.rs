//! The report of the [`Holders`] of a port: a sentence, then a line for each fact.

use std::fmt;
use std::time::SystemTime;

use super::endpoint::{Endpoint, Protocol};
use super::holder::Holder;
use super::holders::Holders;
use super::process::Process;
use super::state::State;
use super::text::connections;

/// A report shows the sockets that differ only in the peer as one group. After this number of
/// groups, the report only counts the connections of further groups. It still lists every socket
/// without a peer.
const GROUPS_LISTED: usize = 20;

/// A line of a report: a label, then a fact. Example:
/// `  listening    127.0.0.1:60315    redis-server, pid 4242`.
pub(crate) fn line(label: &str, text: impl fmt::Display) -> String {
    format!("  {label:<13}{text}")
}

/// The report for people: a sentence, then lines for the sockets and the reservations.
impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = Endpoint {
            port: self.port,
            ip: self.ip,
            protocol: self.protocol,
        }
        .with_scope(self.scope_id);
        write!(f, "port {endpoint}: {}", self.headline())?;
        let now = SystemTime::now();
        let elsewhere: Vec<&Holder> = self.elsewhere.iter().collect();
        let others = socket_lines(&elsewhere, now).into_iter();
        for line in self
            .lines(&self.headline(), now, "they end within 60 s")
            .into_iter()
            .chain(others)
        {
            write!(f, "\n{line}")?;
        }
        Ok(())
    }
}

impl Holders {
    /// Who holds the port, in one sentence. A listening or bound socket comes before a reservation,
    /// and a reservation before any other socket. The claim (this crate's bound socket) of a listed
    /// reservation counts as the reservation.
    pub(crate) fn headline(&self) -> String {
        let is_server = |holder: &&Holder| matches!(holder.state, State::Listen | State::Bound);
        let mut servers = self
            .iter()
            .filter(|holder| self.lease_of(holder).is_none())
            .filter(is_server);
        if let Some(holder) = servers.next() {
            let first = holder.processes.first();
            // Several sockets of one process count as one holder.
            let is_other = |process: &Process| first.is_some_and(|first| first.pid != process.pid);
            let other = servers.find_map(|server| {
                let process = server.processes.first()?;
                is_other(process).then_some((server, process))
            });
            return match other {
                Some((_, other)) if holder.shared && holder.protocol != Protocol::Tcp => format!(
                    "{} and shares it with {}: each unicast datagram reaches only one of them",
                    holder.headline(),
                    other.name_and_pid()
                ),
                Some((other, _)) => {
                    format!("{}, and {}", holder.headline(), other.headline())
                }
                None => match self.iter().find(|other| other.is_server() && other.hidden) {
                    Some(hidden) if !holder.hidden => {
                        format!("{}, and {}", holder.headline(), hidden.protocol_headline())
                    }
                    _ => holder.headline(),
                },
            };
        }
        if let Some(lease) = self.leases.first() {
            return format!("reserved {}", lease.by());
        }
        match self.iter().next() {
            Some(holder) if holder.state == State::TimeWait => {
                format!("TIME_WAIT of {}", connections(self.len()))
            }
            Some(holder) => holder.headline(),
            None => match self.elsewhere.first() {
                Some(other) => format!("{}; {}", self.nothing_found(), other.headline()),
                None => self.nothing_found(),
            },
        }
    }

    fn nothing_found(&self) -> String {
        if self.unseen.is_empty() {
            return "nobody holds it".to_owned();
        }
        let reasons: Vec<String> = self.unseen.iter().map(ToString::to_string).collect();
        format!("nothing found, but {}", reasons.join("; "))
    }

    /// The lines below `headline`. `time_wait_note` is the text after the number of connections in
    /// TIME_WAIT. Ages are relative to `now`.
    pub(crate) fn lines(
        &self,
        headline: &str,
        now: SystemTime,
        time_wait_note: &str,
    ) -> Vec<String> {
        let (in_time_wait, sockets): (Vec<&Holder>, Vec<&Holder>) = self
            .iter()
            .filter(|holder| !self.is_shown_by_lease(holder))
            .partition(|holder| holder.state == State::TimeWait);
        let mut lines = socket_lines(&sockets, now);
        if !in_time_wait.is_empty() {
            let count = connections(in_time_wait.len());
            lines.push(line(
                "TIME_WAIT",
                format_args!("{count}, no process; {time_wait_note}"),
            ));
        }
        lines.extend(self.lease_lines());
        lines.extend(self.unseen_lines(headline));
        let usage = self.ephemeral_usage.iter();
        lines.extend(usage.map(|usage| line("the range", usage)));
        lines
    }

    fn lease_lines(&self) -> impl Iterator<Item = String> {
        let is_only = self.leases.len() == 1;
        self.leases.iter().map(move |lease| {
            // One call can reserve the TCP and the UDP port of a number. Without the protocol, the
            // lines of the two leases would be the same.
            let protocol = if is_only {
                String::new()
            } else {
                format!("{}, ", lease.protocol())
            };
            line(
                "reserved",
                format_args!("{protocol}{}", lease.by_in_folder()),
            )
        })
    }

    /// The lines that say what could not be read, except what the headline says already. Lines
    /// about unread processes appear only if some socket probably has a hidden owner. Otherwise the
    /// report already names an owner of each socket. An unread process could only share a socket
    /// with the named owner.
    fn unseen_lines(&self, headline: &str) -> impl Iterator<Item = String> {
        let has_hidden = |holder: &Holder| holder.hidden || holder.may_have_hidden_owners();
        let has_hidden = self.iter().any(has_hidden);
        self.unseen
            .iter()
            .filter(move |reason| has_hidden || !reason.is_of_processes())
            .map(ToString::to_string)
            .filter(move |reason| !headline.contains(reason))
            .map(|reason| line("not seen", reason))
    }
}

/// One line for each group of sockets that differ only in the peer. After [`GROUPS_LISTED`] groups,
/// a last line counts the further connections.
pub(crate) fn socket_lines(sockets: &[&Holder], now: SystemTime) -> Vec<String> {
    let mut groups: Vec<(&Holder, usize)> = Vec::new();
    let mut unlisted = 0;
    for socket in sockets {
        let is_full = groups.len() >= GROUPS_LISTED;
        let group = groups
            .iter_mut()
            .rev()
            .find(|(first, _)| differ_only_in_peer(first, socket));
        match group {
            Some((_, others)) => *others += 1,
            None if is_full && socket.remote.is_some() => unlisted += 1,
            None => groups.push((socket, 0)),
        }
    }
    let mut introduced = Vec::new();
    let mut lines = Vec::new();
    for (holder, others) in groups {
        let owners = holder.owners_text(now, &mut introduced);
        let mut text = format!("{}    {owners}", holder.addresses());
        if others > 0 {
            text += &format!(" (and {others} more)");
        }
        lines.push(line(&holder.label(), text));
    }
    if unlisted > 0 {
        lines.push(line(
            "",
            format_args!(
                "and {} with other owners, addresses or states",
                connections(unlisted)
            ),
        ));
    }
    lines
}

/// Whether `a` and `b` are connections that a report shows as one group.
fn differ_only_in_peer(a: &Holder, b: &Holder) -> bool {
    let key = |holder: &Holder| {
        (
            holder.protocol,
            holder.state,
            holder.client,
            holder.local,
            holder.hidden,
            holder.uid,
            holder.inode == 0,
        )
    };
    let pids = |holder: &Holder| -> Vec<u32> { holder.processes.iter().map(|p| p.pid).collect() };
    a.remote.is_some() && b.remote.is_some() && key(a) == key(b) && pids(a) == pids(b)
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::model::incompleteness::{Incompleteness, UnseenBound};
    use crate::model::process::Process;
    use crate::model::test_holders::{holder, lease, process, report, time_wait};

    #[test]
    fn a_server_with_clients_is_reported_in_the_documented_layout() {
        let redis = [process(4242, "redis-server")];
        let mut rows: Vec<Holder> = (0..12).map(|n| time_wait(40_000 + n)).collect();
        for port in [51546, 51544, 51545] {
            rows.push(holder(
                State::Established,
                "127.0.0.1:60315",
                &format!("127.0.0.1:{port}"),
                &redis,
            ));
        }
        rows.push(holder(State::Listen, "127.0.0.1:60315", "", &redis));
        assert_eq!(
            report(rows, vec![lease(5)], vec![Incompleteness::Processes]),
            "\
redis-server (pid 4242) listens on 127.0.0.1:60315
  listening    127.0.0.1:60315    redis-server, pid 4242, user ci, started 3 min ago
  connected    127.0.0.1:60315 <- 127.0.0.1:51544    redis-server, pid 4242 (and 2 more)
  TIME_WAIT    12 connections, no process; they end within 60 s
  reserved     by test restart::keeps_its_port (tests/restart.rs:17), pid 4100"
        );
    }

    #[test]
    fn no_holder_and_could_not_read_are_different_answers() {
        assert_eq!(report(vec![], vec![], vec![]), "nobody holds it");
        let bound = Incompleteness::Bound(UnseenBound::OldKernel);
        let blind = report(vec![], vec![], vec![bound]);
        assert!(
            blind.starts_with("nothing found, but ") && blind.contains("could not be read"),
            "{blind}"
        );
        assert!(!blind.contains("nobody"), "{blind}");
    }

    #[test]
    fn what_could_not_be_read_is_said_once() {
        let bound = Incompleteness::Bound(UnseenBound::NoSockDiag);
        let blind = Holders::new(60315, None, vec![], vec![], vec![bound]);
        let lines = |headline: &str| blind.lines(headline, SystemTime::now(), "").len();
        assert_eq!(lines(&blind.headline()), 0);
        assert_eq!(lines("no visible socket explains why"), 1);
    }

    #[test]
    fn a_claim_is_reported_as_its_reservation() {
        let claim = holder(State::Bound, "[::]:60315", "", &[process(4100, "restart")]);
        assert_eq!(
            report(vec![claim.clone()], vec![lease(77)], vec![]),
            "\
reserved by test restart::keeps_its_port (tests/restart.rs:17), pid 4100
  reserved     by test restart::keeps_its_port (tests/restart.rs:17), pid 4100"
        );
        assert_eq!(
            report(vec![claim], vec![], vec![]),
            "\
restart (pid 4100) has bound [::]:60315 and does not listen
  bound        [::]:60315    restart, pid 4100, user ci, started 3 min ago"
        );
    }

    /// A forked child outlives the process that made the reservation.
    #[test]
    fn a_claim_of_another_process_than_the_recorded_one_is_reported_with_both() {
        let child = Process {
            forked: true,
            ..process(4101, "restart")
        };
        let claim = holder(State::Bound, "[::]:60315", "", slice::from_ref(&child));
        let mut inherited = lease(77);
        inherited.set_inherited_by(vec![child]);
        assert_eq!(
            report(vec![claim.clone()], vec![inherited], vec![]),
            "\
reserved by test restart::keeps_its_port (tests/restart.rs:17), pid 4100, which has ended; \
pid 4101 (restart), a forked child, still holds it
  bound        [::]:60315    restart, pid 4101, user ci, started 3 min ago
  reserved     by test restart::keeps_its_port (tests/restart.rs:17), pid 4100, which has ended; \
pid 4101 (restart), a forked child, still holds it"
        );
        // If no process has inherited the lease, the report names only the recorded process.
        let mut ended = lease(77);
        ended.set_inherited_by(Vec::new());
        assert_eq!(
            report(vec![claim], vec![ended], vec![]),
            "\
reserved by test restart::keeps_its_port (tests/restart.rs:17), pid 4100, which has ended
  reserved     by test restart::keeps_its_port (tests/restart.rs:17), pid 4100, which has ended"
        );
    }

    #[test]
    fn hundreds_of_connections_are_counted() {
        let rows = (0..300u16).map(|n| {
            let own = [process(u32::from(n), "ab")];
            holder(
                State::Established,
                "127.0.0.1:60315",
                &format!("127.0.0.1:{}", 2000 + n),
                &own,
            )
        });
        let text = report(rows.collect(), vec![], vec![]);
        assert_eq!(text.lines().count(), 22);
        assert!(
            text.ends_with(
                "\n               and 280 connections with other owners, addresses or states"
            ),
            "{text}"
        );
    }

    #[test]
    fn time_wait_alone_is_the_headline() {
        assert_eq!(
            report(vec![time_wait(1)], vec![], vec![]),
            "\
TIME_WAIT of 1 connection
  TIME_WAIT    1 connection, no process; they end within 60 s"
        );
    }
}
