//! The sentences and lines that say who holds a port.

use std::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

use super::holder::Holder;
use super::holders::Holders;
use super::process::Process;
use super::state::State;
use super::text::{AgeText, connections};
use crate::model::endpoint::{Endpoint, Protocol};
use crate::printable::printable;

/// Processes named one by one; the rest is counted.
const NAMED: usize = 4;
/// Connections listed one by one; the rest is counted.
const LISTED: usize = 20;

/// `  listening    127.0.0.1:60315    redis-server, pid 4242`: a fact in a report, under its label.
pub(crate) fn line(label: &str, text: impl fmt::Display) -> String {
    format!("  {label:<13}{text}")
}

/// The report for people: a sentence, then a line for each thing that has the port.
impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = Endpoint {
            port: self.port,
            ip: None,
            protocol: self.protocol,
        };
        write!(f, "port {asked}: {}", self.headline())?;
        for line in self.lines(SystemTime::now(), "they end within 60 s") {
            write!(f, "\n{line}")?;
        }
        Ok(())
    }
}

impl Holders {
    /// Who holds the port, in one sentence: by the socket, or the reservation, that says most.
    pub(crate) fn headline(&self) -> String {
        let strong = |holder: &&Holder| matches!(holder.state, State::Listen | State::Bound);
        let first = self
            .iter()
            .filter(|holder| self.lease_of(holder).is_none())
            .find(strong);
        if let Some(holder) = first {
            return holder.headline();
        }
        if let Some(lease) = self.leases.first() {
            return format!("reserved {}", lease.by());
        }
        match self.iter().next() {
            Some(holder) if holder.state == State::TimeWait => {
                format!("TIME_WAIT of {}", connections(self.len()))
            }
            Some(holder) => holder.headline(),
            None => self.nothing(),
        }
    }

    fn nothing(&self) -> String {
        if self.unseen.is_empty() {
            return "nobody holds it".to_owned();
        }
        let reasons: Vec<String> = self.unseen.iter().map(ToString::to_string).collect();
        format!("nothing found, but {}", reasons.join("; "))
    }

    /// A line for each thing that has the port. `waiting` says what the connections in TIME_WAIT mean. Ages are
    /// relative to `now`.
    pub(crate) fn lines(&self, now: SystemTime, waiting: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut introduced = Vec::new();
        let mut waits = 0;
        let mut more = 0;
        let mut groups: Vec<(&Holder, usize)> = Vec::new();
        for holder in self {
            if holder.state == State::TimeWait {
                waits += 1;
                continue;
            }
            // The line of the reservation stands for its socket.
            if self.lease_of(holder).is_some() {
                continue;
            }
            let listed = groups.len();
            match groups
                .iter_mut()
                .rev()
                .find(|(first, _)| first.is_like(holder))
            {
                Some((_, count)) => *count += 1,
                None if listed >= LISTED && holder.remote.is_some() => more += 1,
                None => groups.push((holder, 0)),
            }
        }
        for (holder, others) in groups {
            let mut text = format!(
                "{}    {}",
                holder.addresses(),
                holder.who(now, &mut introduced)
            );
            if others > 0 {
                text += &format!(" (and {others} more)");
            }
            lines.push(line(&holder.label(), text));
        }
        if more > 0 {
            lines.push(line(
                "",
                format_args!("and {more} more of other processes or addresses"),
            ));
        }
        if waits > 0 {
            lines.push(line(
                "TIME_WAIT",
                format_args!("{}, no process; {waiting}", connections(waits)),
            ));
        }
        for lease in &self.leases {
            // A pair is reserved in one call: only the protocol tells its two leases apart.
            let of = if self.leases.len() > 1 {
                format!("{}, ", lease.protocol())
            } else {
                String::new()
            };
            lines.push(line("reserved", format_args!("{of}{}", lease.by())));
        }
        // Of processes nothing is said where each socket's holder is known: another that shares it helps nobody.
        let hidden = self.iter().any(|holder| holder.hidden);
        let told = self
            .unseen
            .iter()
            .filter(|unseen| !self.is_empty() && (hidden || !unseen.is_of_processes()));
        lines.extend(told.map(|unseen| line("not seen", unseen)));
        lines
    }
}

impl Holder {
    /// The order of a report, which is also the order of importance.
    pub(crate) fn rank(&self) -> impl Ord + use<> {
        let state = match self.state {
            State::Listen => 0,
            State::Bound => 1,
            State::TimeWait => 3,
            _ => 2,
        };
        let pid = self.processes.first().map(|process| process.pid);
        (
            state,
            self.client,
            self.protocol,
            pid.is_none(),
            self.local.ip(),
            pid,
            self.state.name(),
            self.remote,
        )
    }

    /// Connections of the same processes to the same local address are told once.
    fn is_like(&self, other: &Holder) -> bool {
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
        let same = self.remote.is_some() && other.remote.is_some() && key(self) == key(other);
        same && self
            .processes
            .iter()
            .map(|p| p.pid)
            .eq(other.processes.iter().map(|p| p.pid))
    }

    /// Who has this socket, in one sentence.
    pub(crate) fn headline(&self) -> String {
        let who = match self.processes.first() {
            Some(process) => format!("{} (pid {})", printable(&process.name), process.pid),
            None if self.hidden => return self.held_by_user(),
            None if self.state == State::TimeWait => {
                return format!("TIME_WAIT of a connection {}", self.with_remote());
            }
            None => {
                return format!(
                    "a connection {} that no process has any more",
                    self.with_remote()
                );
            }
        };
        let local = self.printed_local();
        match (self.state, self.protocol) {
            (State::Listen, _) => format!("{who} listens on {local}"),
            (State::Bound, Protocol::Tcp) => {
                format!("{who} has it bound on {local}, without listening")
            }
            (State::Bound, _) => format!("{who} is bound to {local}"),
            (State::Connected, _) => {
                format!("{who} has a UDP socket connected {}", self.with_remote())
            }
            _ if self.client => format!("outgoing connection of {who} {}", self.with_remote()),
            (State::Unknown(number), _) => {
                format!("{who} has a socket on {local}, in state {number}")
            }
            _ => format!(
                "connection of {who} with {}",
                self.remote.map_or_else(String::new, printed)
            ),
        }
    }

    fn held_by_user(&self) -> String {
        let of = match (self.uid, &self.user) {
            (Some(uid), Some(user)) => format!("uid {uid} ({})", printable(user)),
            (Some(uid), None) => format!("uid {uid}"),
            (None, _) => "a user who is not shown".to_owned(),
        };
        format!("held by {of}; its process is hidden from you")
    }

    fn with_remote(&self) -> String {
        self.remote
            .map_or_else(String::new, |remote| format!("to {}", printed(remote)))
    }

    /// The label of its line.
    pub(crate) fn label(&self) -> String {
        match self.state {
            State::Listen => "listening".to_owned(),
            State::Bound => "bound".to_owned(),
            State::Unknown(number) => format!("state {number}"),
            _ if self.client && self.protocol == Protocol::Tcp => "outgoing".to_owned(),
            State::Established | State::Connected => "connected".to_owned(),
            other => other.name().to_uppercase(),
        }
    }

    fn addresses(&self) -> String {
        let mut text = self.printed_local();
        if let Some(remote) = self.remote {
            let arrow = if self.client || self.state == State::Connected {
                "->"
            } else {
                "<-"
            };
            text += &format!(" {arrow} {}", printed(remote));
        }
        // The label of an outgoing connection says that, so its state is told here.
        if self.client && !matches!(self.state, State::Established | State::Connected) {
            text += &format!(" ({})", self.state.name().to_uppercase());
        }
        text
    }

    fn printed_local(&self) -> String {
        let mut text = printed(self.local);
        if self.protocol != Protocol::Tcp {
            text += &format!("/{}", self.protocol);
        }
        let told = matches!(self.state, State::Listen | State::Bound);
        if told && self.local.is_ipv6() && self.local.ip().is_unspecified() && !self.dual_stack {
            text += " (IPv6 only)";
        }
        text
    }

    /// The processes; of each the whole story at its first mention only.
    fn who(&self, now: SystemTime, introduced: &mut Vec<u32>) -> String {
        let Some((first, others)) = self.processes.split_first() else {
            return if self.hidden {
                self.held_by_user()
            } else {
                "no process, the kernel is closing it".to_owned()
            };
        };
        let mut text = if introduced.contains(&first.pid) {
            first.named()
        } else {
            first.introduced(now)
        };
        introduced.push(first.pid);
        for (at, process) in others.iter().take(NAMED).enumerate() {
            text += if at == 0 { "; shared with " } else { ", " };
            text += &format!("{} (pid {})", printable(&process.name), process.pid);
        }
        if others.len() > NAMED {
            text += &format!(" and {} other processes", others.len() - NAMED);
        }
        text
    }
}

/// IPv4 inside IPv6 is printed as IPv4.
fn printed(addr: SocketAddr) -> String {
    match addr.ip().to_canonical() {
        ip if ip.is_ipv4() => SocketAddr::new(ip, addr.port()).to_string(),
        _ => addr.to_string(),
    }
}

impl Process {
    fn named(&self) -> String {
        format!("{}, pid {}", printable(&self.name), self.pid)
    }

    fn introduced(&self, now: SystemTime) -> String {
        let mut text = self.named();
        match (&self.user, self.uid) {
            (Some(user), _) => text += &format!(", user {}", printable(user)),
            (None, Some(uid)) => text += &format!(", uid {uid}"),
            (None, None) => {}
        }
        // A clock that was set back would make it start in the future.
        if let Some(age) = self
            .started
            .and_then(|started| now.duration_since(started).ok())
        {
            text += &format!(", started {} ago", AgeText(age));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::incompleteness::Incompleteness;
    use crate::model::lease_info::{Lease, Record};
    use std::num::NonZeroU64;
    use std::time::Duration;
    use std::time::UNIX_EPOCH;

    const NOW: Duration = Duration::from_secs(1_769_860_800);

    fn process(pid: u32, name: &str) -> Process {
        Process {
            pid,
            parent: Some(1),
            name: name.to_owned(),
            program: None,
            uid: Some(1000),
            user: Some("ci".to_owned()),
            started: Some(UNIX_EPOCH + NOW - Duration::from_secs(200)),
            ticks: NonZeroU64::new(pid.into()),
            forked: false,
        }
    }

    fn holder(state: State, local: &str, remote: &str, processes: &[Process]) -> Holder {
        Holder {
            protocol: Protocol::Tcp,
            local: local.parse().unwrap(),
            remote: remote.parse().ok(),
            state,
            uid: Some(1000),
            user: Some("ci".to_owned()),
            inode: 77,
            dual_stack: local.starts_with("[::]"),
            client: false,
            hidden: processes.is_empty(),
            processes: processes.to_vec(),
        }
    }

    fn report(rows: Vec<Holder>, leases: Vec<Lease>, unseen: Vec<Incompleteness>) -> String {
        let holders = Holders::new(60315, None, rows, leases, unseen);
        let mut text = holders.headline();
        for line in holders.lines(UNIX_EPOCH + NOW, "they end within 60 s") {
            text += "\n";
            text += &line;
        }
        text
    }

    fn time_wait(port: u16) -> Holder {
        let row = holder(
            State::TimeWait,
            "127.0.0.1:60315",
            &format!("127.0.0.1:{port}"),
            &[],
        );
        Holder {
            inode: 0,
            uid: None,
            user: None,
            hidden: false,
            ..row
        }
    }

    fn lease(socket: u64) -> Lease {
        let record = Record {
            pid: 4100,
            test: "restart::keeps_its_port".to_owned(),
            at: "tests/restart.rs:17".to_owned(),
            socket: NonZeroU64::new(socket),
            ..Record::default()
        };
        Lease::new(Protocol::Tcp, 60315, Some(record))
    }

    #[test]
    fn a_server_with_clients_is_told_in_the_layout_of_the_design() {
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
    fn an_outgoing_connection_is_told_as_one() {
        let curl = Holder {
            client: true,
            ..holder(
                State::Established,
                "127.0.0.1:60315",
                "127.0.0.1:80",
                &[process(7, "curl")],
            )
        };
        let closing = Holder {
            client: true,
            ..holder(
                State::CloseWait,
                "127.0.0.1:60315",
                "127.0.0.1:81",
                &[process(7, "curl")],
            )
        };
        assert_eq!(
            report(vec![closing, curl], vec![], vec![]),
            "\
outgoing connection of curl (pid 7) to 127.0.0.1:81
  outgoing     127.0.0.1:60315 -> 127.0.0.1:81 (CLOSE_WAIT)    curl, pid 7, user ci, started 3 min ago
  outgoing     127.0.0.1:60315 -> 127.0.0.1:80    curl, pid 7"
        );
    }

    #[test]
    fn a_hidden_process_is_not_nobody() {
        assert_eq!(
            report(
                vec![holder(State::Listen, "[::]:60315", "", &[])],
                vec![],
                vec![Incompleteness::Processes]
            ),
            "\
held by uid 1000 (ci); its process is hidden from you
  listening    [::]:60315    held by uid 1000 (ci); its process is hidden from you
  not seen     some processes could not be read: you may not look into them"
        );
    }

    #[test]
    fn nobody_and_could_not_look_are_different_answers() {
        assert_eq!(report(vec![], vec![], vec![]), "nobody holds it");
        let blind = report(vec![], vec![], vec![Incompleteness::Bound]);
        assert!(
            blind.starts_with("nothing found, but ") && blind.contains("could not be read"),
            "{blind}"
        );
        assert!(!blind.contains("nobody"), "{blind}");
    }

    #[test]
    fn a_claim_is_told_as_its_reservation() {
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
restart (pid 4100) has it bound on [::]:60315, without listening
  bound        [::]:60315    restart, pid 4100, user ci, started 3 min ago"
        );
    }

    #[test]
    fn workers_udp_and_time_wait_alone_have_their_own_words() {
        let nginx: Vec<Process> = (10..17).map(|pid| process(pid, "nginx")).collect();
        let shared = report(
            vec![holder(State::Listen, "0.0.0.0:60315", "", &nginx)],
            vec![],
            vec![],
        );
        assert!(shared.ends_with("nginx, pid 10, user ci, started 3 min ago; shared with nginx (pid 11), nginx (pid 12), nginx (pid 13), nginx (pid 14) and 2 other processes"), "{shared}");

        let udp = Holder {
            protocol: Protocol::Udp,
            ..holder(State::Bound, "[::1]:60315", "", &[process(5, "dns")])
        };
        assert_eq!(
            report(vec![udp], vec![], vec![]).lines().next(),
            Some("dns (pid 5) is bound to [::1]:60315/udp")
        );

        assert_eq!(
            report(vec![time_wait(1)], vec![], vec![]),
            "TIME_WAIT of 1 connection\n  TIME_WAIT    1 connection, no process; they end within 60 s"
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
            text.ends_with("\n               and 280 more of other processes or addresses"),
            "{text}"
        );
    }

    #[test]
    fn names_are_escaped_and_mapped_addresses_are_read_as_ipv4() {
        let forged = process(5, "a) b\n\u{1b}[31m(c");
        let row = holder(
            State::Established,
            "[::ffff:127.0.0.1]:60315",
            "[::ffff:127.0.0.1]:9",
            &[forged],
        );
        let text = report(vec![row], vec![], vec![]);
        assert_eq!(text.lines().count(), 2);
        assert!(
            !text.contains('\u{1b}') && text.contains("a) b\\n\\u{1b}[31m(c"),
            "{text}"
        );
        assert!(
            text.contains("127.0.0.1:60315 <- 127.0.0.1:9 ") && !text.contains("ffff"),
            "{text}"
        );
    }
}
