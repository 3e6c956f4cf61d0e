//! [`diagnose`], and the reports of refused reservations and failed checks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::availability::look;
use super::facts::{facts, facts_of_each, note_other_protocol};
use super::sight;
use crate::claim::{BIND_MODES, BindMode, try_bind};
use crate::localhost;
use crate::model::diagnosis::trial::Trial;
use crate::model::diagnosis::verdict::{Cause, Verdict};
use crate::model::diagnosis::{Diagnosis, Facts};
use crate::model::port::Port;
use crate::model::server_kind::ServerKind;
use crate::model::to_endpoint::{ToEndpoint, port_of};
use crate::ownership::Asker;
use crate::ports;
use crate::reservation::Reservation;
use crate::retry::{PORTS_WITH_OTHER_ADDRESS, RetryBudget};
use crate::sockets::ScanDepth;

/// Reports all that is known about a port: its number, its holders, which servers could bind it,
/// why other servers could not, and the remedies. The call never fails. The report says what could
/// not be read. Without a protocol, the report is about TCP, even for a reservation of TCP and UDP.
///
/// To find out which servers could bind, the call binds the port itself. So it occupies the port
/// for some microseconds.
///
/// ```
/// let p = portlease::reserve_port();
/// let diagnosis = portlease::diagnose(p.port());
/// assert!(diagnosis.is_free()); // our own reservation does not count as in use
/// println!("{diagnosis}");
/// ```
pub fn diagnose(port: impl ToEndpoint) -> Diagnosis {
    let asker = Asker::of(&port);
    let port = match port_of(&port) {
        Ok(port) => port,
        Err(error) => return Diagnosis::of_operand(&error),
    };
    let mut budget = RetryBudget::new();
    let verdict = look(port, ServerKind::ReuseAddr, asker, &mut budget).verdict;
    let mut facts = facts(port, verdict, ScanDepth::Complete);
    facts.trials = trials(port, &mut budget);
    Diagnosis::new(facts)
}

/// The report after the crate could not reserve this port for a server of this kind.
pub(crate) fn in_use(port: Port, kind: ServerKind) -> Diagnosis {
    // The refused attempt already had the retry budget of the call, so this check has none.
    let found = look(port, kind, Asker::NewReservation, &mut RetryBudget::none());
    let verdict = match found.verdict {
        Verdict::Free => Verdict::InUse(Cause::Gone),
        verdict => verdict,
    };
    let facts = facts(port, verdict, ScanDepth::Report);
    Diagnosis::new(Facts {
        free_address: free_loopback(port, Asker::NewReservation, &facts),
        ..facts
    })
}

/// The report after the system refused this reservation's own port with "address already in use".
#[cfg_attr(not(unix), allow(dead_code, reason = "only Unix passes sockets"))]
pub(crate) fn in_use_despite(reservation: &Reservation, port: Port) -> Diagnosis {
    let asker = Asker::of(&reservation);
    let found = look(port, ServerKind::ReuseAddr, asker, &mut RetryBudget::none());
    let verdict = match found.verdict {
        Verdict::Free => Verdict::InUse(Cause::Gone),
        verdict => verdict,
    };
    report_to(asker, port, verdict)
}

/// The report after the system refused this port for lack of permission. A port that is in use is
/// reported as such: a privilege alone would not help.
pub(crate) fn not_permitted(port: Port, kind: ServerKind) -> Diagnosis {
    let found = look(port, kind, Asker::NewReservation, &mut RetryBudget::none());
    let verdict = match found.verdict {
        verdict @ (Verdict::InUse(_) | Verdict::Privileged) => verdict,
        // The refused bind may have been for another protocol of the reservation, or the setting
        // for privileged ports may have changed since. So this check may find no missing privilege.
        // The verdict then depends on the number alone.
        _ if ports::is_privileged(port.number) => Verdict::Privileged,
        _ => Verdict::Forbidden,
    };
    report(port, verdict)
}

/// A [`report`] to a caller that may have reserved the port. The caller's own claim (its bound
/// socket) does not count as a holder.
pub(crate) fn report_to(asker: Asker, port: Port, verdict: Verdict) -> Diagnosis {
    let mut each = report_to_each(vec![(port, asker, verdict)]);
    each.pop().expect("one port has one report")
}

/// What [`report_to`] returns for each of these ports, in their order. Each scan of the processes
/// serves all of them. For more than [`PORTS_WITH_OTHER_ADDRESS`] ports, the reports suggest no
/// free address.
pub(crate) fn report_to_each(ports: Vec<(Port, Asker, Verdict)>) -> Vec<Diagnosis> {
    let claims: Vec<_> = ports
        .iter()
        .map(|(port, asker, _)| asker.claim(*port))
        .collect();
    let verdicts = ports
        .iter()
        .map(|(port, _, verdict)| (*port, verdict.clone()))
        .collect();
    let mut facts = facts_of_each(verdicts, ScanDepth::Report);
    if ports.len() <= PORTS_WITH_OTHER_ADDRESS {
        for ((port, asker, _), facts) in ports.iter().zip(&mut facts) {
            facts.free_address = free_loopback(*port, *asker, facts);
        }
    }
    let diagnosis = |(facts, own_claim)| Diagnosis::new(Facts { own_claim, ..facts });
    facts.into_iter().zip(claims).map(diagnosis).collect()
}

/// The first of 127.0.0.1 and ::1 on which servers of every kind could bind the number, although
/// servers have the number on other addresses. `None` in these cases:
///
/// - Neither address is free.
/// - No server blocks the port.
/// - A server has a wildcard address.
/// - The caller asked for an address that is not a loopback address.
fn free_loopback(port: Port, asker: Asker, facts: &Facts) -> Option<SocketAddr> {
    let servers = facts.holders.iter().flatten();
    let servers = servers.filter(|holder| holder.is_server());
    let taken: Vec<IpAddr> = servers.map(|holder| holder.local.ip()).collect();
    if facts.verdict != Verdict::InUse(Cause::Holder)
        || taken.is_empty()
        || taken.iter().any(IpAddr::is_unspecified)
        || port.ip.is_some_and(|ip| !ip.to_canonical().is_loopback())
    {
        return None;
    }
    let loopbacks: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let is_free = |ip: &IpAddr| {
        let port = Port {
            ip: Some(*ip),
            ..port
        };
        let found = || look(port, ServerKind::Plain, asker, &mut RetryBudget::none());
        !taken.contains(ip) && found().verdict == Verdict::Free
    };
    let found = loopbacks.into_iter().find(is_free);
    found.map(|ip| SocketAddr::new(ip, port.number))
}

/// The report of a verdict, with the processes that own a socket on the port.
pub(crate) fn report(port: Port, verdict: Verdict) -> Diagnosis {
    Diagnosis::new(facts(port, verdict, ScanDepth::Report))
}

/// What [`report`] returns for each of these ports, in their order, with the hints of
/// [`note_other_protocol`]. Each scan of the processes serves all of the ports. `asked` has all
/// ports of the call, also those that need no report.
pub(crate) fn report_each(ports: Vec<(Port, Verdict)>, asked: &[Port]) -> Vec<Diagnosis> {
    let mut facts = facts_of_each(ports, ScanDepth::Report);
    note_other_protocol(&mut facts, asked, None);
    facts.into_iter().map(Diagnosis::new).collect()
}

/// A report that has only a verdict, and is about no port.
pub(crate) fn without_port(verdict: Verdict) -> Diagnosis {
    Diagnosis::bare(verdict, sight::is_root())
}

/// Tries to bind in each of the [`BIND_MODES`], on four addresses: the loopback and wildcard
/// addresses of IPv4 and IPv6. For a port with one of these addresses, tries only that address. For
/// `localhost`, tries both loopback addresses. For a port with any other address, tries nothing.
fn trials(port: Port, budget: &mut RetryBudget) -> Vec<Trial> {
    let everywhere: [IpAddr; 4] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv6Addr::UNSPECIFIED.into(),
    ];
    let asked = port.ip.map(localhost::addresses);
    let is_asked = |ip: &IpAddr| asked.as_ref().is_none_or(|asked| asked.contains(ip));
    let mut trials = Vec::new();
    for ip in everywhere.into_iter().filter(is_asked) {
        for mode in BIND_MODES {
            let on_ip = Port {
                ip: Some(ip),
                ..port
            };
            let admitted = match try_bind(on_ip, *mode, budget) {
                Ok(()) => true,
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => false,
                // Any other error does not show whether a server could bind. For example, this
                // machine may lack the address.
                Err(_) => continue,
            };
            trials.push(Trial {
                ip,
                reuse_addr: *mode == BindMode::Server,
                admitted,
            });
        }
    }
    trials
}
