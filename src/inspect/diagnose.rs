//! [`diagnose`]: gathers the facts of a [`Diagnosis`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

use once_cell::unsync::Lazy;

use super::availability::{lacks_address, look};
use super::ephemeral_usage;
use super::expected::Expected;
use super::inheritance;
use super::own_listeners::OwnListeners;
use super::probe;
use super::sight;
use super::who;
use crate::claim::{BIND_MODES, BindMode, try_bind};
use crate::lease;
use crate::localhost;
use crate::model::diagnosis::number::Number;
use crate::model::diagnosis::trial::Trial;
use crate::model::diagnosis::verdict::{Cause, Verdict};
use crate::model::diagnosis::{Diagnosis, Facts};
use crate::model::endpoint::Protocol;
use crate::model::error::Error;
use crate::model::holder::Holder;
use crate::model::holders::Holders;
use crate::model::incompleteness::Incompleteness;
use crate::model::port::Port;
use crate::model::process::Process;
use crate::model::server_kind::ServerKind;
use crate::model::state::State;
use crate::model::to_endpoint::{ToEndpoint, port_of};
use crate::namespace::{Memo, Namespace};
use crate::os_error::is_out_of_descriptors;
use crate::ownership::Asker;
use crate::ports::services::Services;
use crate::ports::{self, EphemeralRange};
use crate::reservation::Reservation;
use crate::residual;
use crate::retry::{PORTS_WITH_OTHER_ADDRESS, RetryBudget};
use crate::sockets::{self, ScanDepth};

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

/// Handles each port without a listener on any address. If a server has the same number of the
/// other protocol (TCP or UDP), the function adds that server to the facts. The caller may have
/// asked for the wrong protocol.
///
/// If `expected` is set, only a server of the expected process counts. `asked` has all ports of the
/// call. If `asked` has the TCP port and the UDP port of a number, the function adds no server for
/// that number, because each port has its own result.
fn note_other_protocol(each: &mut [Facts], asked: &[Port], expected: Option<&Expected>) {
    let other_of = |facts: &Facts| -> Option<Port> {
        let has_server = facts.holders.iter().flatten().any(Holder::answers);
        if !lacks_listener(&facts.verdict) || has_server || !facts.elsewhere.is_empty() {
            return None;
        }
        let endpoint = facts.endpoint?;
        let protocol = match endpoint.protocol? {
            Protocol::Tcp => Protocol::Udp,
            Protocol::Udp => Protocol::Tcp,
            Protocol::UdpLite => return None,
        };
        let is_asked = |port: &Port| port.number == endpoint.port && port.protocol == protocol;
        (!asked.iter().any(is_asked)).then(|| Port {
            protocol,
            ..Port::of(endpoint)
        })
    };
    let mut others: Vec<(&mut Facts, Port)> = Vec::new();
    for facts in each {
        if let Some(other) = other_of(facts) {
            others.push((facts, other));
        }
    }
    let ports: Vec<Port> = others.iter().map(|(_, port)| *port).collect();
    // If the table of the other protocol cannot be read, the report omits this hint.
    let found = who::reachable(&ports).unwrap_or_default();
    for ((facts, _), servers) in others.into_iter().zip(found) {
        let mut servers = servers.into_iter();
        facts.other_protocol = servers.find(|socket| {
            socket.is_server() && expected.is_none_or(|expected| expected.has(socket))
        });
    }
}

/// A report that has only a verdict, and is about no port.
pub(crate) fn without_port(verdict: Verdict) -> Diagnosis {
    Diagnosis::bare(verdict, sight::is_root())
}

/// A [`report`] of a port on which the expected process does not listen, or does not listen alone.
/// If no socket listens on the port, a connection shows whether a packet filter redirects the port:
/// see [`after_waiting_for_any`]. `asked` has all ports of the call.
pub(crate) fn not_listening(
    port: Port,
    verdict: Verdict,
    expected: &Expected,
    asked: &[Port],
) -> Diagnosis {
    let mut each = not_listening_each(vec![(port, verdict)], expected, asked);
    each.pop().expect("one port has one report")
}

/// Returns what `look` finds for the process `pid`. If `look` finds nothing, `pid` may have started
/// its server through other programs, such as npm and a shell. So the function calls `look` for
/// each of `leaves`, the descendants of `pid` that have no children. If `look` finds something for
/// every leaf, returns the first leaf with its result.
fn of_server<T>(pid: u32, leaves: &[u32], look: impl Fn(u32) -> Option<T>) -> Option<(u32, T)> {
    if let Some(found) = look(pid) {
        return Some((pid, found));
    }
    let found = leaves.iter().map(|leaf| Some((*leaf, look(*leaf)?)));
    found.collect::<Option<Vec<_>>>()?.into_iter().next()
}

/// What [`not_listening`] returns for each of these ports, in their order.
pub(crate) fn not_listening_each(
    ports: Vec<(Port, Verdict)>,
    expected: &Expected,
    asked: &[Port],
) -> Vec<Diagnosis> {
    if ports.is_empty() {
        return Vec::new();
    }
    let process_of_thread = expected.pid().and_then(sockets::process_of_thread);
    let runs = |pid: &u32| sockets::is_running(*pid).unwrap_or(true);
    let running = expected.pid().filter(runs);
    // The calling process may have descendants of any kind, not only servers. So if the calling
    // process itself is expected, this function does not examine the descendants.
    let others = running.filter(|pid| *pid != std::process::id());
    let leaves = others.map(sockets::leaves).unwrap_or_default();
    let halted = running.and_then(|pid| of_server(pid, &leaves, sockets::halt));
    let is_elsewhere = |pid| Namespace::differs_from_that_of(pid).then_some(());
    let in_other_network = running.and_then(|pid| of_server(pid, &leaves, is_elsewhere));
    let in_other_network = in_other_network.map(|(pid, ())| pid);
    // If the listeners of the expected process cannot be read, the report omits them.
    let own_listeners = OwnListeners::of(expected, asked).unwrap_or_default();
    let report = |((port, _), facts): (&(Port, Verdict), Facts)| {
        let mut facts = with_redirection(*port, facts);
        let holders = facts.holders.iter().flatten();
        let stranger = holders
            .filter(|socket| socket.answers() && !expected.has(socket))
            .min_by_key(|socket| socket.processes.is_empty())
            .cloned();
        let processes = stranger.iter().flat_map(|stranger| &stranger.processes);
        if stranger.is_some() {
            facts.elsewhere.retain(|other| expected.has(other));
        }
        let is_shared = matches!(facts.verdict, Verdict::SharedWithStranger(_));
        let listens = is_shared || stranger.is_some() && !facts.elsewhere.is_empty();
        let mut meant = processes.filter(|process| expected.may_mean(process, listens));
        let probably_meant = meant.next().map(|process| process.pid).zip(expected.pid());
        Diagnosis::new(Facts {
            expected: Some(running),
            process_of_thread,
            // A process can be halted: stopped or frozen. That explains only why a listener is
            // missing. If the expected process shares the port with an unrelated process, no
            // listener is missing.
            halted: halted.clone().filter(|_| lacks_listener(&facts.verdict)),
            in_other_network: in_other_network.filter(|_| lacks_listener(&facts.verdict)),
            stranger,
            probably_meant,
            instead: own_listeners.beside(*port),
            ..facts
        })
    };
    let mut facts = facts_of_each(ports.clone(), ScanDepth::Complete);
    note_other_protocol(&mut facts, asked, Some(expected));
    ports.iter().zip(facts).map(report).collect()
}

/// The [`report`] on a wait that has timed out and expects no particular process. `asked` has all
/// ports of a wait for listeners, and is empty after a wait until ports are free. `last_listener`
/// is for [`Facts::last_listener`].
///
/// If the verdict is [`Verdict::NotListening`], and this machine has the address of the port, the
/// function connects with [`probe::redirected`], to find out whether a packet filter redirects the
/// port.
pub(crate) fn after_waiting_for_any(
    port: Port,
    verdict: Verdict,
    last_listener: Option<Holder>,
    asked: &[Port],
) -> Diagnosis {
    let mut each = facts_of_each(vec![(port, verdict)], ScanDepth::Complete);
    note_other_protocol(&mut each, asked, None);
    let facts = each.pop().expect("one port has one set of facts");
    Diagnosis::new(Facts {
        last_listener,
        ..with_redirection(port, facts)
    })
}

fn with_redirection(port: Port, mut facts: Facts) -> Facts {
    let mut sockets = facts.holders.iter().flatten();
    let is_silent = match facts.verdict {
        Verdict::NotListening => true,
        Verdict::NotHeldBy(_) => !sockets.any(Holder::answers),
        _ => false,
    };
    // A connection to an address that this machine lacks would reach another machine.
    if is_silent && !facts.lacks_address {
        facts.redirected = probe::redirected(port);
    }
    facts
}

/// Returns `true` if the verdict says that the expected listener is missing. Another process may
/// listen.
fn lacks_listener(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::NotListening | Verdict::NotHeldBy(_))
}

fn facts(port: Port, verdict: Verdict, depth: ScanDepth) -> Facts {
    let mut each = facts_of_each(vec![(port, verdict)], depth);
    each.pop().expect("one port has one set of facts")
}

fn facts_of_each(ports: Vec<(Port, Verdict)>, depth: ScanDepth) -> Vec<Facts> {
    // A check in which every port passes has nothing to report, and reads none of the files below.
    if ports.is_empty() {
        return Vec::new();
    }
    let _memo = Memo::new();
    let endpoints: Vec<_> = ports.iter().map(|(port, _)| port.endpoint()).collect();
    let holders = who::holders_of_each(&endpoints, depth).unwrap_or_else(|error| {
        let without_sockets = |(port, _): &(Port, Verdict)| {
            let unseen = vec![match is_out_of_descriptors(&error) {
                true => Incompleteness::Descriptors(port.protocol),
                false => Incompleteness::Sockets(port.protocol),
            }];
            let leases = inheritance::of_leases(lease::of_number(port.number, &[port.protocol]));
            let protocol = Some(port.protocol);
            Holders::new(port.number, protocol, Vec::new(), leases, unseen)
        };
        ports.iter().map(without_sockets).collect()
    });
    let (range, services) = (EphemeralRange::read().ok(), Services::read());
    let (unprivileged_from, as_root) = (ports::unprivileged_from(), sight::is_root());
    let usage = Lazy::new(|| ephemeral_usage::if_crowded(&[Protocol::Tcp]));
    let silent = ports.iter().filter(|(_, verdict)| lacks_listener(verdict));
    let silent: Vec<Port> = silent.map(|(port, _)| *port).collect();
    let mut unreachable = who::unreachable(&silent).into_iter();
    let facts = |((port, verdict), holders): ((Port, Verdict), Holders)| {
        let verdict = match verdict {
            Verdict::InUse(Cause::Holder) => Verdict::InUse(cause_of(port, &holders)),
            verdict => verdict,
        };
        let elsewhere = if lacks_listener(&verdict) {
            unreachable.next().unwrap_or_default()
        } else {
            Vec::new()
        };
        let lacks_address = lacks_listener(&verdict) && lacks_address(port);
        let reserved_by = match verdict {
            Verdict::InUse(Cause::Named) => unrecorded_reserver(port, &holders),
            _ => Vec::new(),
        };
        let unusable_lock_folder = match verdict {
            Verdict::InUse(Cause::Named | Cause::UnseenClaim) => lease::unusable()
                .map(|folder| Error::lock_folder(&folder.path, folder.cause).to_string()),
            _ => None,
        };
        let is_tcp = port.protocol == Protocol::Tcp;
        let usage = is_tcp.then(|| usage.clone()).flatten();
        let is_in_use = matches!(verdict, Verdict::InUse(_));
        let lease = holders.leases().first();
        let is_reserved_for_asker = is_in_use && Asker::Process.owned(port, lease).is_some();
        Facts {
            endpoint: Some(port.endpoint()),
            verdict,
            lacks_address,
            redirected: None,
            as_root,
            expected: None,
            daemons: Vec::new(),
            is_over: false,
            process_of_thread: None,
            halted: None,
            in_other_network: None,
            stranger: None,
            probably_meant: None,
            elsewhere,
            instead: Vec::new(),
            last_listener: None,
            other_protocol: None,
            reserved_by,
            unusable_lock_folder,
            holders: Some(holders.with_ephemeral_usage(usage)),
            number: Some(Number {
                port: port.number,
                service: services.name(port.number, port.protocol),
                withheld: range
                    .as_ref()
                    .map_or_else(Vec::new, EphemeralRange::withheld),
                ephemeral: range.as_ref().map(EphemeralRange::range),
                unprivileged_from,
            }),
            trials: Vec::new(),
            own_claim: None,
            is_reserved_for_asker,
            free_address: None,
            at: SystemTime::now(),
        }
    };
    ports.into_iter().zip(holders).map(facts).collect()
}

/// The cause to report after a check found a holder:
///
/// - [`Cause::Gone`] if the holder has closed its socket since the check.
/// - [`Cause::Named`] if the socket is probably the claim (the bound socket) of a reservation
///   without a record in this process's lock folder.
/// - Otherwise [`Cause::Holder`].
fn cause_of(port: Port, holders: &Holders) -> Cause {
    if holders.is_empty() && holders.is_complete() {
        return Cause::Gone;
    }
    let keeps_port = |holder: &&Holder| matches!(holder.state, State::Listen | State::Bound);
    let sockets: Vec<&Holder> = holders.iter().filter(keeps_port).collect();
    let may_be_unrecorded = holders.leases().is_empty()
        && port.protocol == Protocol::Tcp
        && !sockets.is_empty()
        && sockets.iter().all(|holder| holder.state == State::Bound);
    if !may_be_unrecorded {
        return Cause::Holder;
    }
    if sockets.iter().all(|holder| is_of_command(holder)) {
        return Cause::Named;
    }
    if !residual::is_named(port) {
        return Cause::Holder;
    }
    let owners = inheritance::of_name(port);
    let is_of_owner = |holder: &&Holder| {
        let mut pids = holder.processes.iter().map(|process| process.pid);
        holder.hidden == owners.is_empty()
            && pids.all(|pid| owners.iter().any(|owner| owner.pid == pid))
    };
    match sockets.iter().all(is_of_owner) {
        true => Cause::Named,
        false => Cause::Holder,
    }
}

/// Whether all owners of the bound socket run the command `portlease`. This command keeps a bound
/// TCP socket that does not listen only to reserve a port.
fn is_of_command(holder: &Holder) -> bool {
    let is_command = |process: &Process| process.name == "portlease";
    !holder.processes.is_empty() && holder.processes.iter().all(is_command)
}

/// The processes that hold a reservation of the port, if this process finds no record of the
/// reservation. Usually these processes have the port's abstract Unix socket name. But automatic
/// TCP ports of the ephemeral range have no such name. So if no process has the name, the function
/// returns the processes of the command `portlease` that own a socket on the port.
fn unrecorded_reserver(port: Port, holders: &Holders) -> Vec<Process> {
    let named = inheritance::of_name(port);
    if !named.is_empty() {
        return named;
    }
    let of_command = holders.iter().filter(|holder| is_of_command(holder));
    of_command
        .flat_map(|holder| holder.processes.clone())
        .collect()
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
