//! The text of one [`Holder`]: its sentence, and the parts of its line in a report.

use std::net::SocketAddr;
use std::time::SystemTime;

use super::endpoint::Protocol;
use super::holder::{Holder, UnseenOwner};
use super::process::{Process, ProcessState, Relation};
use super::state::State;
use super::text::{AddrText, AgeText};
use crate::printable::printable;

/// A report names the first owner of a socket and up to this number of other owners, and only
/// counts the rest.
const SHARERS_NAMED: usize = 4;

impl Holder {
    /// Who owns this socket, in one sentence.
    pub(crate) fn headline(&self) -> String {
        self.headline_with(&self.local_text())
    }

    /// Who owns this socket, in one sentence. `local` is the text of its local address.
    fn headline_with(&self, local: &str) -> String {
        let owner = match self.processes.first() {
            Some(process) => process.name_and_pid(),
            None if self.hidden => return self.held_by_user(),
            None if self.state == State::TimeWait => {
                return format!("TIME_WAIT of a connection {}", self.to_peer());
            }
            None if self.remote.is_none() => {
                return format!("a socket on {local} that no process owns");
            }
            None => {
                return format!("a connection {} that no process owns", self.to_peer());
            }
        };
        match (self.state, self.protocol) {
            (State::Listen, _) if self.is_past => format!("{owner} listened on {local}"),
            (State::Bound, Protocol::Tcp) if self.is_past => {
                format!("{owner} had bound {local} and did not listen")
            }
            (State::Bound, _) if self.is_past => format!("{owner} was bound to {local}"),
            (State::Listen, _) => format!("{owner} listens on {local}"),
            (State::Bound, Protocol::Tcp) => {
                format!("{owner} has bound {local} and does not listen")
            }
            (State::Bound, _) if self.may_be_client => {
                format!("{owner} is bound to {local}, and may be a client")
            }
            (State::Bound, _) => format!("{owner} is bound to {local}"),
            (State::Connected, _) => {
                format!("{owner} has a UDP socket connected {}", self.to_peer())
            }
            _ if self.remote == Some(self.local) => {
                format!("{owner} is a client that is connected to itself")
            }
            _ if self.client => format!("outgoing connection of {owner} {}", self.to_peer()),
            (State::Unknown(number), _) => {
                format!("{owner} has a socket on {local}, in the unknown state {number}")
            }
            _ => {
                let peer = self.remote.map_or_else(String::new, addr_text);
                format!("connection of {owner} with {peer}, and no listener is left on the port")
            }
        }
    }

    /// Who owns this server socket, in one sentence that names its protocol.
    pub(crate) fn protocol_headline(&self) -> String {
        let local = self.local_with(&format!("/{}", self.protocol));
        // The headline of a socket with a hidden owner has no address.
        match self.processes.is_empty() && self.hidden {
            true => format!("a socket on {local}, {}", self.held_by_user()),
            false => self.headline_with(&local),
        }
    }

    /// Who owns this server socket, in one sentence with the word "only". Clients of the checked
    /// address do not reach the socket.
    pub(crate) fn elsewhere_headline(&self) -> String {
        let local = self.local_text();
        // If the socket serves only IPv6 or only one interface, `local` ends with a note such as
        // "(IPv6 only)".
        let only = if local.ends_with(" only)") {
            ""
        } else {
            " only"
        };
        match (self.processes.is_empty() && self.hidden, self.state) {
            (false, _) => format!("{}{only}", self.headline()),
            // The headline of a socket with a hidden owner has no address.
            (true, State::Listen) => {
                format!("a socket listens on {local}{only}, {}", self.held_by_user())
            }
            (true, _) => format!(
                "a socket is bound to {local}{only}, {}",
                self.held_by_user()
            ),
        }
    }

    /// Who owned this listener before it was closed.
    pub(crate) fn past_headline(&self) -> String {
        let owner = self.processes.first().map(Process::name_and_pid);
        let owner = owner.unwrap_or_else(|| "an unseen process".to_owned());
        format!("{owner} was the last to listen, on {}", self.local_text())
    }

    fn held_by_user(&self) -> String {
        let user = match (self.uid, &self.user) {
            (Some(uid), Some(name)) => format!("uid {uid} ({})", printable(name)),
            (Some(uid), None) => format!("uid {uid}"),
            // On Linux only a user namespace can hide the user of a socket.
            (None, _) if cfg!(target_os = "linux") => {
                "a user outside of this user namespace".to_owned()
            }
            (None, _) => "an unknown user".to_owned(),
        };
        let UnseenOwner {
            is_denied,
            lacks_proc,
            is_outside,
            as_root,
            in_flight,
        } = &self.unseen_owner;
        if *lacks_proc {
            return format!(
                "held by {user}: the owning process cannot be seen, because /proc does not show \
                 the processes of this pid namespace"
            );
        }
        let receivers: Vec<String> = in_flight.iter().map(u32::to_string).collect();
        let in_flight = (!receivers.is_empty()).then(|| {
            let receivers = receivers.join(" or ");
            format!("a descriptor that was sent to pid {receivers} and not received")
        });
        let outside = is_outside.then_some("a process outside of this pid namespace");
        let denied = is_denied.then_some(if *as_root {
            "a process that even root may not inspect here"
        } else {
            "a process that this user may not inspect"
        });
        let owners: Vec<&str> = in_flight
            .as_deref()
            .into_iter()
            .chain(outside)
            .chain(denied)
            .collect();
        if owners.is_empty() {
            format!(
                "held by {user}: the owner is the kernel, perhaps for an unfinished system call"
            )
        } else {
            format!(
                "held by {user}: the owner is {}, or the kernel itself",
                owners.join(", ")
            )
        }
    }

    fn to_peer(&self) -> String {
        self.remote
            .map_or_else(String::new, |peer| format!("to {}", addr_text(peer)))
    }

    /// The label at the start of this socket's line in a report, such as `listening`.
    pub(super) fn label(&self) -> String {
        match self.state {
            State::Listen if self.is_past => "listened".to_owned(),
            State::Bound if self.is_past => "was bound".to_owned(),
            State::Listen => "listening".to_owned(),
            State::Bound => "bound".to_owned(),
            State::Unknown(number) => format!("state {number}"),
            _ if self.client && self.protocol == Protocol::Tcp => "outgoing".to_owned(),
            State::Established | State::Connected => "connected".to_owned(),
            other => other.name().to_uppercase(),
        }
    }

    /// The local address and the peer, such as `127.0.0.1:60315 <- 127.0.0.1:51544`.
    pub(super) fn addresses(&self) -> String {
        let mut text = self.local_text();
        if let Some(peer) = self.remote {
            let arrow = if self.client || self.state == State::Connected {
                "->"
            } else {
                "<-"
            };
            text += &format!(" {arrow} {}", addr_text(peer));
        }
        // The label of an outgoing connection is "outgoing" and does not show the state, so the
        // state is added here.
        if self.client && !matches!(self.state, State::Established | State::Connected) {
            text += &format!(" ({})", self.state.name().to_uppercase());
        }
        text
    }

    fn local_text(&self) -> String {
        match self.protocol {
            Protocol::Tcp => self.local_with(""),
            other => self.local_with(&format!("/{other}")),
        }
    }

    fn local_with(&self, protocol: &str) -> String {
        let mut text = addr_text(self.local) + protocol;
        // `dual_stack` is known only for a socket that listens or is bound.
        let is_server = matches!(self.state, State::Listen | State::Bound);
        let is_wildcard = self.local.is_ipv6() && self.local.ip().is_unspecified();
        if is_server && is_wildcard && !self.dual_stack {
            text += " (IPv6 only)";
        }
        if let Some(interface) = &self.interface {
            text += &format!(" (interface {} only)", printable(interface));
        }
        text
    }

    /// Names the processes that own this socket. Adds the user and the age of the first process
    /// if its pid is not in `introduced`. An earlier line of the report has shown the user and the
    /// age of each process in `introduced`.
    pub(super) fn owners_text(&self, now: SystemTime, introduced: &mut Vec<u32>) -> String {
        let Some((first, sharers)) = self.processes.split_first() else {
            return if self.hidden {
                self.held_by_user()
            } else {
                "no process: the kernel is closing the socket".to_owned()
            };
        };
        let mut text = if introduced.contains(&first.pid) {
            first.name_comma_pid()
        } else {
            first.introduction(now)
        };
        introduced.push(first.pid);
        let mut separator = "; shared with ";
        for process in sharers.iter().take(SHARERS_NAMED) {
            text += separator;
            text += &process.name_and_pid();
            separator = ", ";
        }
        match sharers.len().saturating_sub(SHARERS_NAMED) {
            0 => {}
            1 => text += " and one other process",
            more => text += &format!(" and {more} other processes"),
        }
        text
    }
}

/// Prints an IPv4-mapped IPv6 address as IPv4, and the interface of a link-local address by name.
fn addr_text(addr: SocketAddr) -> String {
    match addr.ip().to_canonical() {
        ip if ip.is_ipv4() => SocketAddr::new(ip, addr.port()).to_string(),
        _ => AddrText(addr).to_string(),
    }
}

impl Process {
    /// Returns text such as `redis-server (pid 4242)`.
    pub(super) fn name_and_pid(&self) -> String {
        format!(
            "{} (pid {}{})",
            printable(&self.name),
            self.pid,
            self.state_text()
        )
    }

    /// The state of the process; empty while the process runs.
    fn state_text(&self) -> &'static str {
        match self.state {
            ProcessState::Running => "",
            ProcessState::Suspended => ", suspended",
            ProcessState::Traced => ", stopped by its debugger",
            ProcessState::Frozen => ", frozen",
            ProcessState::DumpingCore => ", ending: it is dumping core",
            ProcessState::Zombie => ", ended",
        }
    }

    /// Returns text such as `redis-server, pid 4242`.
    fn name_comma_pid(&self) -> String {
        format!("{}, pid {}", printable(&self.name), self.pid)
    }

    /// Returns text such as `redis-server, pid 4242, user ci, started 3 min ago`.
    fn introduction(&self, now: SystemTime) -> String {
        let mut text = self.name_comma_pid();
        match (&self.user, self.uid) {
            (Some(user), _) => text += &format!(", user {}", printable(user)),
            (None, Some(uid)) => text += &format!(", uid {uid}"),
            (None, None) => {}
        }
        // If the start lies in the future, because the clock was set back, the text has no age.
        let age = self
            .started
            .and_then(|started| now.duration_since(started).ok());
        if let Some(age) = age {
            text += &format!(", started {} ago", AgeText(age));
        }
        match self.relation {
            Some(Relation::ThisProcess) => text += ", this process",
            Some(Relation::Ancestor) => text += ", an ancestor of this process",
            Some(Relation::Descendant) => text += ", started by this process",
            None => {}
        }
        if !self.shares_unit {
            if let Some(id) = &self.container {
                text += &format!(", in container {}", printable(id.get(..12).unwrap_or(id)));
            } else if let Some(unit) = &self.unit {
                text += &format!(", of {}", printable(unit));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::incompleteness::Incompleteness;
    use crate::model::test_holders::{holder, process, report};

    #[test]
    fn an_outgoing_connection_is_reported_as_outgoing() {
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
  outgoing     127.0.0.1:60315 -> 127.0.0.1:81 (CLOSE_WAIT)    curl, pid 7, user ci, \
started 3 min ago
  outgoing     127.0.0.1:60315 -> 127.0.0.1:80    curl, pid 7"
        );
    }

    #[test]
    fn the_headline_with_the_protocol_has_it_after_the_address() {
        let v6_only = Holder {
            dual_stack: false,
            ..holder(State::Listen, "[::]:60315", "", &[process(7, "web")])
        };
        assert_eq!(
            v6_only.protocol_headline(),
            "web (pid 7) listens on [::]:60315/tcp (IPv6 only)"
        );
        let hidden = holder(State::Listen, "127.0.0.1:60315", "", &[]);
        let text = hidden.protocol_headline();
        let expected = "a socket on 127.0.0.1:60315/tcp, held by ";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn a_hidden_process_is_reported_as_hidden() {
        assert_eq!(
            report(
                vec![holder(State::Listen, "[::]:60315", "", &[])],
                vec![],
                vec![Incompleteness::Processes]
            ),
            "\
held by uid 1000 (ci): the owner is a process that this user may not inspect, or the kernel itself
  listening    [::]:60315    held by uid 1000 (ci): the owner is a process that this \
user may not inspect, or the kernel itself
  not seen     some processes could not be read: this user may not inspect them"
        );
    }

    #[test]
    fn further_owners_of_a_socket_are_named_then_counted() {
        let nginx: Vec<Process> = (10..17).map(|pid| process(pid, "nginx")).collect();
        let shared = report(
            vec![holder(State::Listen, "0.0.0.0:60315", "", &nginx)],
            vec![],
            vec![],
        );
        assert!(
            shared.ends_with(
                "nginx, pid 10, user ci, started 3 min ago; shared with nginx (pid 11), \
                 nginx (pid 12), nginx (pid 13), nginx (pid 14) and 2 other processes"
            ),
            "{shared}"
        );
    }

    #[test]
    fn a_udp_socket_is_reported_with_its_protocol() {
        let udp = Holder {
            protocol: Protocol::Udp,
            ..holder(State::Bound, "[::1]:60315", "", &[process(5, "dns")])
        };
        assert_eq!(
            report(vec![udp], vec![], vec![]).lines().next(),
            Some("dns (pid 5) is bound to [::1]:60315/udp")
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
