//! Free: whether a server could bind a port now, and nobody else has reserved it.

use std::io;
use std::net::IpAddr;

use crate::claim::{ExclusiveName, Manner, could_bind};
use crate::diagnosis::{Cause, Verdict};
use crate::endpoint::{Endpoint, Protocol, ToEndpoint};
use crate::error::{Lower, is_out_of_descriptors};
use crate::holder::{State, Unseen};
use crate::lease;
use crate::own;
use crate::pool;
use crate::record::{Beneficiary, Lease, Record};
use crate::table::{self, Row, Table};

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

    /// The socket inode of this process's own claim; 0 where that is none, or does not count.
    pub(crate) fn claim(self, port: u16, protocol: Protocol) -> u64 {
        self.owns(port, protocol, None).unwrap_or(0)
    }

    /// The socket inodes of the claims that are mine, if the reservation is.
    fn owns(self, port: u16, protocol: Protocol, lease: Option<&Lease>) -> Option<u64> {
        let own = own::reservation_of(port, protocol);
        match (self, own) {
            (Mine::None, _) => None,
            (Mine::This(id), own) => own.filter(|own| own.id == id).map(|own| own.socket),
            (Mine::All, Some(own)) => Some(own.socket),
            (Mine::All, None) => lease
                .and_then(Lease::record)
                .filter(|record| is_kept_for_us(record))
                .map(|r| r.socket),
        }
    }
}

/// By an ancestor, or on behalf of this process or of an ancestor.
fn is_kept_for_us(record: &Record) -> bool {
    let own = std::process::id();
    let is_ours = |kept: Beneficiary| {
        kept.pid == own && is_the_same(own, kept.started) || is_ancestor(kept.pid, kept.started)
    };
    is_ancestor(record.pid, record.started) || record.on_behalf_of.is_some_and(is_ours)
}

/// Whether the process that has this number now is the one that started then; 0 is unknown.
fn is_the_same(pid: u32, started: u64) -> bool {
    started == 0 || table::started(pid) == Some(started)
}

/// No process tree is deeper than that; a loop in what /proc tells would end here.
pub(crate) const GENERATIONS: usize = 64;

fn is_ancestor(pid: u32, started: u64) -> bool {
    let parents = std::iter::successors(Some(std::process::id()), |pid| table::parent(*pid));
    parents
        .skip(1)
        .take(GENERATIONS)
        .any(|parent| parent == pid)
        && is_the_same(pid, started)
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
        Ok(Standing {
            endpoint,
            lease,
            own,
        })
    }

    /// Why somebody who could bind should not: another has reserved it.
    fn objection(&self) -> Option<Cause> {
        match (&self.own, &self.lease) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(Cause::Reserved),
            (None, None) => {
                is_named(self.endpoint.port, self.endpoint.protocol).then_some(Cause::Named)
            }
        }
    }

    /// Whether the socket is nothing but what keeps the port for its reservation.
    fn is_claim(&self, row: &Row) -> bool {
        let recorded = self
            .lease
            .as_ref()
            .and_then(Lease::record)
            .map(|record| record.socket);
        row.inode != 0 && [self.own, recorded].contains(&Some(row.inode))
    }
}

/// Whether a reservation has taken the port's name: without a lease that is seen here, one of another lock folder.
pub(crate) fn is_named(port: u16, protocol: Option<Protocol>) -> bool {
    // What cannot be asked is not known, and the bind tells the rest.
    ExclusiveName::is_taken(protocol.unwrap_or(Protocol::Tcp), port).unwrap_or(false)
}

/// Whether a server that follows the system's custom could bind the port now, and nobody else reserved it.
///
/// A bind is the question; where it is refused, the table tells why. Touches no process.
pub(crate) fn is_free(endpoint: Endpoint, mine: Mine) -> Verdict {
    if endpoint.protocol == Some(Protocol::UdpLite) {
        return Verdict::CannotTell(
            "UDP-Lite ports are not bound, only looked at: ask who_holds".to_owned(),
        );
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
    // What is reserved without a claim may be a plain server's.
    let manner = if standing.own == Some(0) {
        Manner::Plain
    } else {
        Manner::Exclusive
    };
    match could_bind(protocol, ip, port, manner) {
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
        && table::listening(port, protocol)
            .is_ok_and(|rows| rows.iter().any(|row| concerns(row, ip)))
    {
        return Verdict::InUse(Cause::Holder);
    }
    let table = match table::sockets(port, Some(protocol)) {
        Ok(table) => table,
        Err(e) if is_out_of_descriptors(&e) => return Verdict::CannotTell(Lower(&e).to_string()),
        // No table on this system.
        Err(_) => Table {
            rows: Vec::new(),
            unseen: vec![Unseen::Sockets(protocol)],
        },
    };
    let others: Vec<&Row> = table
        .rows
        .iter()
        .filter(|row| concerns(row, ip) && !standing.is_claim(row))
        .collect();
    let waits = others
        .iter()
        .filter(|row| row.state == State::TimeWait)
        .count();
    // Over connections that a server left a server can bind, not over a socket that has the port bound.
    let stands = |row: &&Row| match row.state {
        State::TimeWait => false,
        State::Listen | State::Bound => true,
        _ => !admits_a_server,
    };
    // Connections that have ended stay as they are: if they admit a server now, what refused it then is gone, such as
    // a listener that a forked child had.
    let admits_one_now = || waits > 0 && could_bind(protocol, ip, port, Manner::Server).is_ok();
    if others.iter().any(stands) {
        Verdict::InUse(Cause::Holder)
    } else if admits_a_server || admits_one_now() {
        let explained = standing.own.is_some() || !others.is_empty();
        if explained {
            Verdict::Free
        } else {
            unexplained(protocol, port)
        }
    } else if waits > 0 {
        Verdict::InUse(Cause::TimeWait)
    } else {
        unexplained(protocol, port)
    }
}

/// No socket explains the refusal; the system itself may.
fn unexplained(protocol: Protocol, port: u16) -> Verdict {
    Verdict::InUse(if pool::is_excluded(protocol, port) {
        Cause::Excluded
    } else {
        Cause::Unexplained
    })
}

/// What a look tells without a bind, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    let others = table
        .rows
        .iter()
        .filter(|row| concerns(row, endpoint.ip) && !standing.is_claim(row));
    let look = |row: &Row| match row.state {
        State::Listen => Glance::Served,
        State::Bound if protocol != Protocol::Tcp => Glance::Served,
        State::Bound | State::Connected => Glance::Held,
        // A number that was dialled out from is nobody else's; what a server left may admit another one.
        _ if row.client => Glance::Held,
        _ => Glance::Open,
    };
    Ok(others.map(look).min().unwrap_or(Glance::Open))
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

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::options::ReserveOptions;

    #[test]
    fn a_glance_tells_without_a_bind_whoever_obviously_has_a_port() {
        let look = |port: u16, protocol| glance(Endpoint::of(port, protocol), Mine::All).unwrap();
        let reserved = ReserveOptions::new().tcp_and_udp().reserve().unwrap();
        assert_eq!(
            look(reserved.port(), Protocol::Tcp),
            Glance::Open,
            "its own"
        );
        assert_eq!(
            glance(Endpoint::of(reserved.port(), Protocol::Udp), Mine::None).unwrap(),
            Glance::Served,
            "reserved by another"
        );

        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(
            look(udp.local_addr().unwrap().port(), Protocol::Udp),
            Glance::Served
        );
        udp.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
        assert_eq!(
            look(udp.local_addr().unwrap().port(), Protocol::Udp),
            Glance::Held
        );

        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        assert_eq!(
            look(server.local_addr().unwrap().port(), Protocol::Tcp),
            Glance::Served
        );
        assert_eq!(
            look(client.local_addr().unwrap().port(), Protocol::Tcp),
            Glance::Held
        );
    }
}
