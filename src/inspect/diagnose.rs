//! Gathers what a [`Diagnosis`] says.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use crate::claim::{BIND_MODES, BindMode, ExclusiveName, try_bind};
use crate::inspect::availability::{Asker, is_free, is_named, matches_addr};
use crate::lease;
use crate::model::diagnosis::{Cause, Diagnosis, Facts, Number, Trial, Verdict};
use crate::model::endpoint::{Endpoint, Protocol, ToEndpoint};
use crate::model::error::Error;
use crate::model::holder::{Holder, Holders, Incompleteness, Process, State};
use crate::model::record::Lease;
use crate::ports;
use crate::ports::services;
use crate::retry::{ResidualOwner, RetryBudget};
use crate::sockets::{self, ScanDepth, Table};

/// Everything on a port: each socket of each protocol in each state, with its processes, and the reservations.
///
/// It answers what `lsof -i`, `ss`, `netstat`, `fuser` and `tasklist` do, and sees more: sockets that are bound and
/// do not listen, TIME_WAIT, other users' sockets (without their processes, unless run as root). It makes no
/// connection. "Nobody" and "could not look" are different answers: see [`Holders::is_complete`].
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let holders = portlease::who_holds(&p)?;
/// let listener = holders.iter().next().unwrap();
/// assert_eq!(listener.local, p.addr());
/// assert_eq!(listener.processes[0].pid, std::process::id());
/// println!("{holders}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// As a program, `examples/who_holds.rs`:
///
/// ```text
#[doc = include_str!("../../examples/who_holds.rs")]
/// ```
///
/// # Errors
///
/// [`InvalidPort`](crate::ErrorKind::InvalidPort) for what names no port,
/// [`Unsupported`](crate::ErrorKind::Unsupported) on systems other than Linux, macOS and Windows,
/// [`Io`](crate::ErrorKind::Io) when the process is out of file descriptors.
///
/// # Platform-specific behavior
///
/// On Linux the sockets come from sock_diag(7), else from `/proc/net`, which does not show TCP sockets that are
/// bound without listening; the processes come from `/proc/PID/fd` (proc(5)).
///
/// On macOS they come from `libproc`, process by process: sockets of processes that may not be looked into, and those
/// that no process has, are not seen, so an answer about TCP is never [complete](Holders::is_complete). Compiled, never
/// run.
///
/// On Windows they come from `GetExtendedTcpTable` and `GetExtendedUdpTable`, which name one process for each socket,
/// do not show TCP sockets that neither listen nor connect, and know no peers of UDP sockets: an answer about TCP is
/// never [complete](Holders::is_complete). A process's program and start are told where it may be opened, its name
/// always; users are not.
#[doc(alias = "lsof")]
#[doc(alias = "fuser")]
#[doc(alias = "netstat")]
#[doc(alias = "ss")]
pub fn who_holds(port: impl ToEndpoint) -> crate::model::error::Result<Holders> {
    let endpoint = port.to_endpoint()?;
    holders(endpoint, ScanDepth::Complete)
        .map_err(|cause| Error::system("look at", Some(endpoint), cause))
}

/// All that is known about a port: what the number is, who has it, which servers could bind it, why not, and what
/// helps. It never fails: what could not be found out is said.
///
/// Finding out which servers could bind takes binding: the port is occupied for some microseconds.
///
/// ```
/// let p = portlease::reserve_port();
/// let diagnosis = portlease::diagnose(p.port());
/// assert!(diagnosis.is_free()); // our own reservation does not stand in our way
/// println!("{diagnosis}");
/// ```
pub fn diagnose(port: impl ToEndpoint) -> Diagnosis {
    let endpoint = match port.to_endpoint() {
        Ok(endpoint) => endpoint.or_tcp(),
        Err(error) => return Diagnosis::invalid(error.to_string()),
    };
    let asker = Asker::of(&port);
    let verdict = is_free(endpoint, asker);
    let mut facts = facts(endpoint, verdict, ScanDepth::Complete);
    facts.trials = trials(endpoint);
    Diagnosis::new(facts)
}

/// [`is_free`], or what is in the way.
pub(crate) fn check_free(endpoint: Endpoint, asker: Asker) -> Result<(), Diagnosis> {
    patiently(|| {
        let verdict = is_free(endpoint, asker);
        if verdict == Verdict::Free {
            return Ok(());
        }
        let diagnosis = report_to(asker, endpoint, verdict);
        // A listener that is gone since leaves its connections to be blamed.
        let is_outdated =
            diagnosis.blames_connections() && is_free(endpoint, asker) == Verdict::Free;
        if is_outdated { Ok(()) } else { Err(diagnosis) }
    })
}

/// Asks again while a child that was forked at this moment, and has not exec'ed yet, has what this process let go.
pub(crate) fn patiently<T>(
    mut check: impl FnMut() -> Result<T, Diagnosis>,
) -> Result<T, Diagnosis> {
    let mut budget = RetryBudget::new();
    loop {
        let outcome = check();
        let Err(diagnosis) = &outcome else {
            return outcome;
        };
        let passes = diagnosis.passes(is_childs);
        let left = || match diagnosis.endpoint() {
            Some(endpoint) if diagnosis.blames_a_name() => left(endpoint),
            _ if diagnosis.names_processes() => ResidualOwner::Copies,
            _ if sockets::CHILDREN_SHARE => ResidualOwner::Nobody,
            _ => ResidualOwner::Others,
        };
        if !passes || !budget.pause_while(left) {
            return outcome;
        }
    }
}

/// Whether nobody has the socket but children of this process that have not exec'ed yet.
fn is_childs(holder: &Holder) -> bool {
    let is_child = |process: &Process| {
        process
            .parent
            .is_none_or(|parent| parent == std::process::id())
    };
    // For a moment of its exec a process shows no descriptors; another user's never does.
    let is_own = || lease::user().is_ok_and(|user| holder.uid == Some(user));
    sockets::CHILDREN_SHARE
        && (!holder.hidden || is_own())
        && holder
            .processes
            .iter()
            .all(|process| process.forked && is_child(process))
}

/// Whether nobody has a socket on the port any more but such children: of a server that this process has closed.
pub(crate) fn is_left_to_children(endpoint: Endpoint) -> bool {
    holders(endpoint, ScanDepth::Complete).is_ok_and(|holders| holders.iter().all(is_childs))
}

/// Who still has the port, or its name.
pub(crate) fn left(endpoint: Endpoint) -> ResidualOwner {
    let owners = |protocol| sockets::processes_named(&ExclusiveName::text(protocol, endpoint.port));
    let names = Protocol::asked(&endpoint.protocol)
        .iter()
        .filter_map(|protocol| match owners(*protocol) {
            Ok(owners) => Some(left_to(&owners?)),
            // Who has a name that cannot be looked for is not known.
            Err(_) => Some(ResidualOwner::Others),
        });
    least(endpoint, names.min())
}

/// The same of its sockets alone, for whoever has the name.
pub(crate) fn sockets_left(endpoint: Endpoint) -> ResidualOwner {
    least(endpoint, None)
}

/// Of its sockets, and of its names.
fn least(endpoint: Endpoint, names: Option<ResidualOwner>) -> ResidualOwner {
    if !sockets::CHILDREN_SHARE {
        return ResidualOwner::Others;
    }
    let Ok(holders) = holders(endpoint, ScanDepth::Complete) else {
        return ResidualOwner::Others;
    };
    // What no process can have goes by time.
    let (passing, owned): (Vec<&Holder>, Vec<_>) = holders
        .iter()
        .partition(|holder| holder.state == State::TimeWait);
    let otherwise = if passing.is_empty() {
        ResidualOwner::Nobody
    } else {
        ResidualOwner::Others
    };
    owned
        .iter()
        .map(|holder| left_to(&holder.processes))
        .chain(names)
        .min()
        .unwrap_or(otherwise)
}

fn left_to(owners: &[Process]) -> ResidualOwner {
    match owners {
        [] => ResidualOwner::Nobody,
        _ if owners.iter().all(|process| process.forked) => ResidualOwner::Copies,
        _ => ResidualOwner::Others,
    }
}

/// What stands in the way of somebody who was refused this port.
pub(crate) fn in_use(endpoint: Endpoint) -> Diagnosis {
    let verdict = match is_free(endpoint, Asker::None) {
        // Let go since.
        Verdict::Free => Verdict::InUse(Cause::Unexplained),
        verdict => verdict,
    };
    report(endpoint, verdict)
}

/// The same as [`report`] for somebody who may have the port reserved: that is in nobody's way.
pub(crate) fn report_to(asker: Asker, endpoint: Endpoint, verdict: Verdict) -> Diagnosis {
    let own_claim = asker.claim(endpoint.port, endpoint.protocol.unwrap_or(Protocol::Tcp));
    Diagnosis::new(Facts {
        own_claim,
        ..facts(endpoint, verdict, ScanDepth::FirstHit)
    })
}

/// The full report of a verdict, with the first process that is found for each socket.
pub(crate) fn report(endpoint: Endpoint, verdict: Verdict) -> Diagnosis {
    Diagnosis::new(facts(endpoint, verdict, ScanDepth::FirstHit))
}

fn facts(endpoint: Endpoint, verdict: Verdict, depth: ScanDepth) -> Facts {
    let holders = holders(endpoint, depth).unwrap_or_else(|_| {
        // What could not be read is said in its place.
        let unseen = Protocol::asked(&endpoint.protocol)
            .iter()
            .copied()
            .map(Incompleteness::Sockets)
            .collect();
        Holders::new(
            endpoint.port,
            endpoint.protocol,
            Vec::new(),
            leases(endpoint),
            unseen,
        )
    });
    Facts {
        endpoint: Some(endpoint),
        verdict,
        holders: Some(holders),
        number: Some(number(endpoint)),
        trials: Vec::new(),
        own_claim: 0,
        waited: false,
        at: SystemTime::now(),
        more: Vec::new(),
    }
}

/// Every socket that concerns the endpoint, and the leases on it.
pub(crate) fn holders(endpoint: Endpoint, depth: ScanDepth) -> io::Result<Holders> {
    let Table {
        mut rows,
        mut unseen,
    } = sockets::sockets(endpoint.port, endpoint.protocol)?;
    rows.retain(|row| matches_addr(row, endpoint.ip));
    let owned = sockets::owners(rows, depth)?;
    unseen.extend(owned.unseen);
    let leases = leases(endpoint);
    let is_seen = |protocol| leases.iter().any(|lease| lease.protocol() == protocol);
    for &protocol in Protocol::asked(&endpoint.protocol) {
        if !is_seen(protocol) && is_named(endpoint.port, Some(protocol)) {
            unseen.push(Incompleteness::Lease(protocol));
        }
    }
    Ok(Holders::new(
        endpoint.port,
        endpoint.protocol,
        owned.holders,
        leases,
        unseen,
    ))
}

/// A folder that cannot be read tells of no lease; nothing is decided by it.
fn leases(endpoint: Endpoint) -> Vec<Lease> {
    let lease = |protocol: &Protocol| lease::peek(*protocol, endpoint.port).ok().flatten();
    Protocol::asked(&endpoint.protocol)
        .iter()
        .filter_map(lease)
        .collect()
}

fn number(endpoint: Endpoint) -> Number {
    let pool = ports::EphemeralRange::read();
    Number {
        port: endpoint.port,
        service: services::name(endpoint.port, endpoint.protocol.unwrap_or(Protocol::Tcp)),
        withheld: pool.is_reserved(endpoint.port),
        ephemeral: Some(pool.range()),
        unprivileged_from: ports::unprivileged_from(),
    }
}

/// Which servers could bind now, on IPv4 and IPv6, loopback and wildcard.
fn trials(endpoint: Endpoint) -> Vec<Trial> {
    let protocol = endpoint.protocol.unwrap_or(Protocol::Tcp);
    let everywhere: [IpAddr; 4] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv6Addr::UNSPECIFIED.into(),
    ];
    let mut trials = Vec::new();
    for ip in everywhere
        .into_iter()
        .filter(|ip| endpoint.ip.is_none_or(|asked| asked == *ip))
    {
        for mode in BIND_MODES {
            let reuse_addr = *mode == BindMode::Server;
            let admitted = match try_bind(protocol, Some(ip), endpoint.port, *mode) {
                Ok(()) => true,
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => false,
                // An address that this machine does not have, say: nothing to tell.
                Err(_) => continue,
            };
            trials.push(Trial {
                ip,
                reuse_addr,
                admitted,
            });
        }
    }
    trials
}
