//! Gathers what a [`Diagnosis`] says.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use crate::claim::{Manner, could_bind};
use crate::diagnosis::{Cause, Diagnosis, Facts, Number, Trial, Verdict};
use crate::endpoint::{Endpoint, Protocol, ToEndpoint};
use crate::error::{Error, Lower, is_out_of_descriptors};
use crate::holder::{Holders, Process, State, Unseen};
use crate::lease;
use crate::own;
use crate::patience::Patience;
use crate::pool;
use crate::record::{Beneficiary, Lease, Record};
use crate::services;
use crate::table::{self, Row, Sight, Table};

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
#[doc = include_str!("../examples/who_holds.rs")]
/// ```
///
/// # Errors
///
/// [`InvalidPort`](crate::ErrorKind::InvalidPort) for what names no port,
/// [`Unsupported`](crate::ErrorKind::Unsupported) on systems other than Linux, [`Io`](crate::ErrorKind::Io) when the
/// process is out of file descriptors.
///
/// # Platform-specific behavior
///
/// On Linux the sockets come from sock_diag(7), else from `/proc/net`, which does not show TCP sockets that are
/// bound without listening; the processes come from `/proc/PID/fd` (proc(5)).
#[doc(alias = "lsof")]
#[doc(alias = "fuser")]
#[doc(alias = "netstat")]
#[doc(alias = "ss")]
pub fn who_holds(port: impl ToEndpoint) -> crate::Result<Holders> {
    let endpoint = port.to_endpoint()?;
    holders(endpoint, Sight::Complete).map_err(|cause| Error::system("look at", Some(endpoint), cause))
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
    let mine = Mine::of(&port);
    let verdict = is_free(endpoint, mine);
    let mut facts = facts(endpoint, verdict, Sight::Complete);
    facts.trials = trials(endpoint);
    Diagnosis::new(facts)
}

/// Whose reservation does not count against the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mine {
    /// This process's, and its ancestors'.
    All,
    /// This one alone.
    This(u64),
    /// None: asked for a reservation of its own.
    None,
}

impl Mine {
    pub(crate) fn of(port: &impl ToEndpoint) -> Mine {
        port.reservation().map_or(Mine::All, Mine::This)
    }

    /// The socket inodes of the claims that are mine, if the reservation is.
    fn owns(self, port: u16, protocol: Protocol, lease: Option<&Lease>) -> Option<u64> {
        let own = own::reservation_of(port, protocol);
        match (self, own) {
            (Mine::None, _) => None,
            (Mine::This(id), own) => own.filter(|own| own.id == id).map(|own| own.socket),
            (Mine::All, Some(own)) => Some(own.socket),
            (Mine::All, None) => {
                lease.and_then(Lease::record).filter(|record| is_kept_for_us(record)).map(|r| r.socket)
            }
        }
    }
}

/// By an ancestor, or on behalf of this process or of an ancestor.
fn is_kept_for_us(record: &Record) -> bool {
    let is_ours = |kept: Beneficiary| kept.pid == std::process::id() || is_ancestor(kept.pid, kept.started);
    is_ancestor(record.pid, record.started) || record.on_behalf_of.is_some_and(is_ours)
}

/// No process tree is deeper than that; a loop in what /proc tells would end here.
pub(crate) const GENERATIONS: usize = 64;

fn is_ancestor(pid: u32, started: u64) -> bool {
    let parents = std::iter::successors(Some(std::process::id()), |pid| table::parent(*pid));
    parents.skip(1).take(GENERATIONS).any(|parent| parent == pid)
        && (started == 0 || table::started(pid) == Some(started))
}

/// [`is_free`], or what is in the way.
pub(crate) fn check_free(endpoint: Endpoint, mine: Mine) -> Result<(), Diagnosis> {
    patiently(|| match is_free(endpoint, mine) {
        Verdict::Free => Ok(()),
        verdict => Err(report(endpoint, verdict)),
    })
}

/// Asks again while a child that was forked at this moment, and has not exec'ed yet, has what this process let go.
pub(crate) fn patiently<T>(mut check: impl FnMut() -> Result<T, Diagnosis>) -> Result<T, Diagnosis> {
    let mut patience = Patience::new();
    let is_fork = |process: &Process| {
        // In the middle of its exec a process shows no program.
        let is_copy = process.program.is_none() || process.program == std::env::current_exe().ok();
        process.parent.is_none_or(|parent| parent == std::process::id()) && is_copy
    };
    loop {
        match check() {
            Err(diagnosis) if diagnosis.passes(is_fork) && patience.pause() => {}
            outcome => return outcome,
        }
    }
}

/// What stands in the way of somebody who was refused this port.
pub(crate) fn in_use(endpoint: Endpoint) -> Diagnosis {
    let verdict = match is_free(endpoint, Mine::None) {
        // Let go since.
        Verdict::Free => Verdict::InUse(Cause::Unexplained),
        verdict => verdict,
    };
    report(endpoint, verdict)
}

/// The full report of a verdict, with the first process that is found for each socket.
pub(crate) fn report(endpoint: Endpoint, verdict: Verdict) -> Diagnosis {
    Diagnosis::new(facts(endpoint, verdict, Sight::FirstHit))
}

fn facts(endpoint: Endpoint, verdict: Verdict, sight: Sight) -> Facts {
    let holders = holders(endpoint, sight).unwrap_or_else(|_| {
        // What could not be read is said in its place.
        let unseen = Protocol::ALL.into_iter().filter(|p| endpoint.protocol.is_none_or(|asked| asked == *p));
        let unseen = unseen.map(Unseen::Sockets).collect();
        Holders::new(endpoint.port, endpoint.protocol, Vec::new(), leases(endpoint), unseen)
    });
    Facts {
        endpoint: Some(endpoint),
        verdict,
        holders: Some(holders),
        number: Some(number(endpoint)),
        trials: Vec::new(),
        waited: false,
        at: SystemTime::now(),
        more: Vec::new(),
    }
}

/// Whether a server that follows the system's custom could bind the port now, and nobody else reserved it.
///
/// A bind is the question; where it is refused, the table tells why. Touches no process.
pub(crate) fn is_free(endpoint: Endpoint, mine: Mine) -> Verdict {
    let Endpoint { port, ip, .. } = endpoint;
    let protocol = endpoint.protocol.unwrap_or(Protocol::Tcp);
    if protocol == Protocol::UdpLite {
        return Verdict::CannotTell("UDP-Lite ports are not bound, only looked at: ask who_holds".to_owned());
    }
    let lease = match lease::peek(protocol, port) {
        Ok(lease) => lease,
        Err(unusable) if is_out_of_descriptors(&unusable.cause) => {
            return Verdict::CannotTell(Lower(&unusable.cause).to_string());
        }
        // A folder that cannot be read keeps nobody from binding; the bind tells the rest.
        Err(_) => None,
    };
    let own_socket = mine.owns(port, protocol, lease.as_ref());
    let foreign = lease.is_some() && own_socket.is_none();
    match could_bind(protocol, ip, port, Manner::Exclusive) {
        Ok(()) if foreign => return Verdict::InUse(Cause::Reserved),
        Ok(()) => return Verdict::Free,
        Err(e) => {
            if let Some(verdict) = refusal(&e) {
                return verdict;
            }
        }
    }
    let admits_a_server = could_bind(protocol, ip, port, Manner::Server).is_ok();
    // A look at the listeners alone is a hundred times as cheap, and mostly enough.
    if !admits_a_server
        && table::listening(port, protocol).is_ok_and(|rows| rows.iter().any(|row| concerns(row, ip)))
    {
        return Verdict::InUse(Cause::Holder);
    }
    let table = match table::sockets(port, Some(protocol)) {
        Ok(table) => table,
        Err(e) if is_out_of_descriptors(&e) => return Verdict::CannotTell(Lower(&e).to_string()),
        // No table on this system.
        Err(_) => Table { rows: Vec::new(), unseen: vec![Unseen::Sockets(protocol)] },
    };
    let claims = [own_socket, lease.as_ref().and_then(Lease::record).map(|record| record.socket)];
    let is_claim = |row: &Row| row.inode != 0 && claims.contains(&Some(row.inode));
    let others: Vec<&Row> = table.rows.iter().filter(|row| concerns(row, ip) && !is_claim(row)).collect();
    let waits = others.iter().filter(|row| row.state == State::TimeWait).count();
    // Over connections that a server left a server can bind, not over a socket that has the port bound.
    let stands = |row: &&Row| match row.state {
        State::TimeWait => false,
        State::Listen | State::Bound => true,
        _ => !admits_a_server,
    };
    if others.iter().any(stands) {
        Verdict::InUse(Cause::Holder)
    } else if foreign {
        Verdict::InUse(Cause::Reserved)
    } else if admits_a_server {
        let explained = own_socket.is_some() || !others.is_empty();
        if explained { Verdict::Free } else { Verdict::InUse(Cause::Unexplained) }
    } else if waits > 0 {
        Verdict::InUse(Cause::TimeWait)
    } else {
        Verdict::InUse(Cause::Unexplained)
    }
}

/// What a refused bind says by itself; `None` is "address in use", of which the table says more.
fn refusal(error: &io::Error) -> Option<Verdict> {
    match error.kind() {
        io::ErrorKind::AddrInUse => None,
        io::ErrorKind::AddrNotAvailable => Some(Verdict::NoSuchAddress),
        io::ErrorKind::PermissionDenied => Some(Verdict::Privileged),
        _ if is_out_of_descriptors(error) => Some(Verdict::CannotTell(format!(
            "{}: this process is at its limit of file descriptors (ulimit -n)",
            Lower(error)
        ))),
        _ => Some(Verdict::CannotBind(Lower(error).to_string())),
    }
}

/// Whether a socket bears on somebody who asks about this address.
pub(crate) fn concerns(row: &Row, ip: Option<IpAddr>) -> bool {
    let Some(ip) = ip else { return true };
    let (asked, local) = (ip.to_canonical(), row.local.ip().to_canonical());
    // Whoever asks about a wildcard asks about every address of its family.
    asked == local
        || local.is_unspecified() && (row.dual_stack || local.is_ipv4() == asked.is_ipv4())
        || asked.is_unspecified() && (asked.is_ipv6() || local.is_ipv4())
}

/// Every socket that concerns the endpoint, and the leases on it.
pub(crate) fn holders(endpoint: Endpoint, sight: Sight) -> io::Result<Holders> {
    let Table { mut rows, mut unseen } = table::sockets(endpoint.port, endpoint.protocol)?;
    rows.retain(|row| concerns(row, endpoint.ip));
    let owned = table::owners(rows, sight)?;
    unseen.extend(owned.unseen);
    Ok(Holders::new(endpoint.port, endpoint.protocol, owned.holders, leases(endpoint), unseen))
}

/// A folder that cannot be read tells of no lease; nothing is decided by it.
fn leases(endpoint: Endpoint) -> Vec<Lease> {
    let asked = Protocol::ALL.into_iter().filter(|p| endpoint.protocol.is_none_or(|wanted| wanted == *p));
    asked.filter_map(|protocol| lease::peek(protocol, endpoint.port).ok().flatten()).collect()
}

fn number(endpoint: Endpoint) -> Number {
    let pool = pool::Ephemeral::read();
    Number {
        port: endpoint.port,
        service: services::name(endpoint.port, endpoint.protocol.unwrap_or(Protocol::Tcp)),
        withheld: pool.is_reserved(endpoint.port),
        ephemeral: Some(pool.range()),
        unprivileged_from: pool::unprivileged_from(),
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
    for ip in everywhere.into_iter().filter(|ip| endpoint.ip.is_none_or(|asked| asked == *ip)) {
        for (reuse_addr, manner) in [(true, Manner::Server), (false, Manner::Exclusive)] {
            let admitted = match could_bind(protocol, Some(ip), endpoint.port, manner) {
                Ok(()) => true,
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => false,
                // An address that this machine does not have, say: nothing to tell.
                Err(_) => continue,
            };
            trials.push(Trial { ip, reuse_addr, admitted });
        }
    }
    trials
}
