//! Gathers what a [`Diagnosis`] says.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use crate::claim::{ExclusiveName, MANNERS, Manner, could_bind};
use crate::diagnosis::{Cause, Diagnosis, Facts, Number, Trial, Verdict};
use crate::endpoint::{Endpoint, Protocol, ToEndpoint};
use crate::error::{Error, Lower, is_out_of_descriptors};
use crate::holder::{Holder, Holders, Process, State, Unseen};
use crate::lease;
use crate::own;
use crate::patience::Patience;
use crate::pool;
use crate::record::Lease;
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
/// [`Unsupported`](crate::ErrorKind::Unsupported) on systems other than Linux and Windows,
/// [`Io`](crate::ErrorKind::Io) when the process is out of file descriptors.
///
/// # Platform-specific behavior
///
/// On Linux the sockets come from sock_diag(7), else from `/proc/net`, which does not show TCP sockets that are
/// bound without listening; the processes come from `/proc/PID/fd` (proc(5)).
///
/// On Windows they come from `GetExtendedTcpTable` and `GetExtendedUdpTable`, which name one process for each socket,
/// do not show TCP sockets that neither listen nor connect, and know no peers of UDP sockets: an answer about TCP is
/// never [complete](Holders::is_complete). A process's program and start are told where it may be opened, its name
/// always; users are not.
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
                lease.and_then(Lease::record).filter(|r| is_ancestor(r.pid, r.started)).map(|r| r.socket)
            }
        }
    }
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
    patiently(|| {
        let verdict = is_free(endpoint, mine);
        if verdict == Verdict::Free {
            return Ok(());
        }
        let diagnosis = report(endpoint, verdict);
        // A listener that is gone since leaves its connections to be blamed.
        let is_outdated = diagnosis.blames_connections() && is_free(endpoint, mine) == Verdict::Free;
        if is_outdated { Ok(()) } else { Err(diagnosis) }
    })
}

/// Asks again while a child that was forked at this moment, and has not exec'ed yet, has what this process let go.
pub(crate) fn patiently<T>(mut check: impl FnMut() -> Result<T, Diagnosis>) -> Result<T, Diagnosis> {
    let mut patience = Patience::new();
    loop {
        match check() {
            Err(diagnosis) if diagnosis.passes(is_passing) && patience.pause() => {}
            outcome => return outcome,
        }
    }
}

/// Whether nobody has the socket but children that are about to exec.
fn is_passing(holder: &Holder) -> bool {
    let is_fork = |process: &Process| {
        // In the middle of its exec a process shows no program.
        let is_copy = process.program.is_none() || process.program == std::env::current_exe().ok();
        process.parent.is_none_or(|parent| parent == std::process::id()) && is_copy
    };
    // For a moment of its exec it shows no descriptors either; another user's process never does.
    let is_seen_or_own = !holder.hidden || holder.uid == table::own_user();
    table::CHILDREN_SHARE && is_seen_or_own && holder.processes.iter().all(is_fork)
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
        let unseen = asked(endpoint).map(Unseen::Sockets).collect();
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

/// The reservation of a port, as it bears on somebody who asks about it.
struct Standing {
    endpoint: Endpoint,
    lease: Option<Lease>,
    /// The inode of the asker's own claim, 0 where it has none; `None` where the reservation is not the asker's.
    own: Option<u64>,
}

impl Standing {
    fn of(endpoint: Endpoint, mine: Mine) -> io::Result<Standing> {
        let protocol = endpoint.protocol.unwrap_or(Protocol::Tcp);
        let lease = match lease::peek(protocol, endpoint.port) {
            Ok(lease) => lease,
            Err(unusable) if is_out_of_descriptors(&unusable.cause) => return Err(unusable.cause),
            // A folder that cannot be read keeps nobody from binding; the bind tells the rest.
            Err(_) => None,
        };
        let own = mine.owns(endpoint.port, protocol, lease.as_ref());
        Ok(Standing { endpoint, lease, own })
    }

    /// Why somebody who could bind should not: another has reserved it.
    fn objection(&self) -> Option<Cause> {
        match (&self.own, &self.lease) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(Cause::Reserved),
            (None, None) => is_named(self.endpoint.port, self.endpoint.protocol).then_some(Cause::Named),
        }
    }

    /// Whether the socket is nothing but what keeps the port for its reservation.
    fn is_claim(&self, row: &Row) -> bool {
        let recorded = self.lease.as_ref().and_then(Lease::record).map(|record| record.socket);
        row.inode != 0 && [self.own, recorded].contains(&Some(row.inode))
    }
}

/// Whether a reservation has taken the port's name: without a lease that is seen here, one of another lock folder.
fn is_named(port: u16, protocol: Option<Protocol>) -> bool {
    // What cannot be asked is not known, and the bind tells the rest.
    ExclusiveName::is_taken(protocol.unwrap_or(Protocol::Tcp), port).unwrap_or(false)
}

/// Whether a server that follows the system's custom could bind the port now, and nobody else reserved it.
///
/// A bind is the question; where it is refused, the table tells why. Touches no process.
pub(crate) fn is_free(endpoint: Endpoint, mine: Mine) -> Verdict {
    if endpoint.protocol == Some(Protocol::UdpLite) {
        return Verdict::CannotTell("UDP-Lite ports are not bound, only looked at: ask who_holds".to_owned());
    }
    let standing = match Standing::of(endpoint, mine) {
        Ok(standing) => standing,
        Err(cause) => return Verdict::CannotTell(Lower(&cause).to_string()),
    };
    let verdict = admits(&standing);
    match &verdict {
        Verdict::Free | Verdict::InUse(Cause::TimeWait | Cause::Excluded | Cause::Unexplained) => {
            standing.objection().map_or(verdict, Verdict::InUse)
        }
        _ => verdict,
    }
}

/// Whether the kernel admits a server, whoever reserved the port.
fn admits(standing: &Standing) -> Verdict {
    let Endpoint { port, ip, .. } = standing.endpoint;
    let protocol = standing.endpoint.protocol.unwrap_or(Protocol::Tcp);
    match could_bind(protocol, ip, port, Manner::Exclusive) {
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
    let others: Vec<&Row> =
        table.rows.iter().filter(|row| concerns(row, ip) && !standing.is_claim(row)).collect();
    let waits = others.iter().filter(|row| row.state == State::TimeWait).count();
    // Over connections that a server left a server can bind, not over a socket that has the port bound.
    let stands = |row: &&Row| match row.state {
        State::TimeWait => false,
        State::Listen | State::Bound => true,
        _ => !admits_a_server,
    };
    if others.iter().any(stands) {
        Verdict::InUse(Cause::Holder)
    } else if admits_a_server {
        let explained = standing.own.is_some() || !others.is_empty();
        if explained { Verdict::Free } else { unexplained(protocol, port) }
    } else if waits > 0 {
        Verdict::InUse(Cause::TimeWait)
    } else {
        unexplained(protocol, port)
    }
}

/// No socket explains the refusal; the system itself may.
fn unexplained(protocol: Protocol, port: u16) -> Verdict {
    Verdict::InUse(if pool::is_excluded(protocol, port) { Cause::Excluded } else { Cause::Unexplained })
}

/// What a look tells without a bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Glance {
    /// In use, and as cheap to see again.
    Served,
    /// In use, by what takes a walk over every socket to see.
    Held,
    /// A bind must tell.
    Open,
}

/// Looks whether somebody obviously has the port. Binds nothing, so that a wait is in nobody's way.
pub(crate) fn glance(endpoint: Endpoint, mine: Mine) -> io::Result<Glance> {
    let protocol = endpoint.protocol.unwrap_or(Protocol::Tcp);
    let standing = Standing::of(endpoint, mine)?;
    if standing.objection().is_some() {
        return Ok(Glance::Served);
    }
    let table = match table::glance(endpoint.port, protocol) {
        Ok(table) => table,
        Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(Glance::Open),
        Err(e) => return Err(e),
    };
    let others = table.rows.iter().filter(|row| concerns(row, endpoint.ip) && !standing.is_claim(row));
    let look = |row: &Row| match row.state {
        State::Listen => Glance::Served,
        State::Bound if protocol != Protocol::Tcp => Glance::Served,
        State::Bound | State::Connected => Glance::Held,
        // A number that was dialled out from is nobody else's; what a server left may admit another one.
        _ if row.client => Glance::Held,
        _ => Glance::Open,
    };
    let seen: Vec<Glance> = others.map(look).collect();
    let first = [Glance::Served, Glance::Held].into_iter().find(|glance| seen.contains(glance));
    Ok(first.unwrap_or(Glance::Open))
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
    let leases = leases(endpoint);
    let is_seen = |protocol| leases.iter().any(|lease| lease.protocol() == protocol);
    let named = asked(endpoint).filter(|p| !is_seen(*p) && is_named(endpoint.port, Some(*p)));
    unseen.extend(named.map(Unseen::Lease));
    Ok(Holders::new(endpoint.port, endpoint.protocol, owned.holders, leases, unseen))
}

/// The protocols that an endpoint is about.
fn asked(endpoint: Endpoint) -> impl Iterator<Item = Protocol> {
    Protocol::ALL.into_iter().filter(move |p| endpoint.protocol.is_none_or(|asked| asked == *p))
}

/// A folder that cannot be read tells of no lease; nothing is decided by it.
fn leases(endpoint: Endpoint) -> Vec<Lease> {
    asked(endpoint).filter_map(|protocol| lease::peek(protocol, endpoint.port).ok().flatten()).collect()
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
        for manner in MANNERS {
            let reuse_addr = *manner == Manner::Server;
            let admitted = match could_bind(protocol, Some(ip), endpoint.port, *manner) {
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

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::options::ReserveOptions;

    #[test]
    fn a_glance_tells_without_a_bind_whoever_obviously_has_a_port() {
        let look = |port: u16, protocol| glance(Endpoint::of(port, protocol), Mine::All).unwrap();
        let reserved = ReserveOptions::new().tcp_and_udp().reserve().unwrap();
        assert_eq!(look(reserved.port(), Protocol::Tcp), Glance::Open, "its own");
        assert_eq!(
            glance(Endpoint::of(reserved.port(), Protocol::Udp), Mine::None).unwrap(),
            Glance::Served,
            "reserved by another"
        );

        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(look(udp.local_addr().unwrap().port(), Protocol::Udp), Glance::Served);
        udp.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
        assert_eq!(look(udp.local_addr().unwrap().port(), Protocol::Udp), Glance::Held);

        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        assert_eq!(look(server.local_addr().unwrap().port(), Protocol::Tcp), Glance::Served);
        assert_eq!(look(client.local_addr().unwrap().port(), Protocol::Tcp), Glance::Held);
    }
}
