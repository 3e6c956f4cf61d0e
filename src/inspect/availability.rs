//! Free: whether a server could bind a port now, and nobody else has reserved it.

use std::io;
use std::net::IpAddr;

use crate::claim::{BindMode, ExclusiveName, try_bind};
use crate::lease;
use crate::model::diagnosis::{Cause, Verdict};
use crate::model::endpoint::{Endpoint, Protocol, ToEndpoint};
use crate::model::error::{OsMessage, is_out_of_descriptors};
use crate::model::holder::{Incompleteness, State};
use crate::model::record::{Beneficiary, Lease, Record};
use crate::ownership;
use crate::ports;
use crate::sockets::{self, Row, Table};

/// Whose reservation does not count against the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// This process's, and its ancestors'.
    All,
    /// This one alone.
    This(u64),
    /// None: asked for a reservation of its own.
    None,
}

impl Asker {
    pub(crate) fn of(port: &impl ToEndpoint) -> Asker {
        port.reservation().map_or(Asker::All, Asker::This)
    }

    /// The socket inode of this process's own claim; 0 where that is none, or does not count.
    pub(crate) fn claim(self, port: u16, protocol: Protocol) -> u64 {
        self.owns(port, protocol, None).unwrap_or(0)
    }

    /// The socket inodes of the claims that are mine, if the reservation is.
    fn owns(self, port: u16, protocol: Protocol, lease: Option<&Lease>) -> Option<u64> {
        let own = ownership::reservation_of(port, protocol);
        match (self, own) {
            (Asker::None, _) => None,
            (Asker::This(id), own) => own.filter(|own| own.id == id).map(|own| own.socket),
            (Asker::All, Some(own)) => Some(own.socket),
            (Asker::All, None) => lease
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
    started == 0 || sockets::started(pid) == Some(started)
}

/// No process tree is deeper than that; a loop in what /proc tells would end here.
pub(crate) const GENERATIONS: usize = 64;

fn is_ancestor(pid: u32, started: u64) -> bool {
    let parents = std::iter::successors(Some(std::process::id()), |pid| sockets::parent(*pid));
    parents
        .skip(1)
        .take(GENERATIONS)
        .any(|parent| parent == pid)
        && is_the_same(pid, started)
}

/// The reservation of a port, as it bears on somebody who asks about it.
struct PortContext {
    endpoint: Endpoint,
    lease: Option<Lease>,
    /// The inode of the asker's own claim, 0 where it has none; `None` where the reservation is not the asker's.
    own: Option<u64>,
}

impl PortContext {
    fn of(endpoint: Endpoint, asker: Asker) -> io::Result<PortContext> {
        let protocol = endpoint.protocol.unwrap_or(Protocol::Tcp);
        let lease = match lease::peek(protocol, endpoint.port) {
            Ok(lease) => lease,
            Err(unusable) if is_out_of_descriptors(&unusable.cause) => return Err(unusable.cause),
            // A folder that cannot be read keeps nobody from binding; the bind tells the rest.
            Err(_) => None,
        };
        let own = asker.owns(endpoint.port, protocol, lease.as_ref());
        Ok(PortContext {
            endpoint,
            lease,
            own,
        })
    }

    /// Why somebody who could bind should not: another has reserved it.
    fn conflict(&self) -> Option<Cause> {
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
pub(crate) fn is_free(endpoint: Endpoint, asker: Asker) -> Verdict {
    if endpoint.protocol == Some(Protocol::UdpLite) {
        return Verdict::CannotTell(
            "UDP-Lite ports are not bound, only looked at: ask who_holds".to_owned(),
        );
    }
    let context = match PortContext::of(endpoint, asker) {
        Ok(context) => context,
        Err(cause) => return Verdict::CannotTell(OsMessage(&cause).to_string()),
    };
    let verdict = probe_bind(&context);
    match &verdict {
        Verdict::Free | Verdict::InUse(Cause::TimeWait | Cause::Excluded | Cause::Unexplained) => {
            context.conflict().map_or(verdict, Verdict::InUse)
        }
        _ => verdict,
    }
}

/// Whether the kernel admits a server, whoever reserved the port.
fn probe_bind(context: &PortContext) -> Verdict {
    let Endpoint { port, ip, .. } = context.endpoint;
    let protocol = context.endpoint.protocol.unwrap_or(Protocol::Tcp);
    // What is reserved without a claim may be a plain server's.
    let mode = if context.own == Some(0) {
        BindMode::Plain
    } else {
        BindMode::Exclusive
    };
    match try_bind(protocol, ip, port, mode) {
        Ok(()) => return Verdict::Free,
        Err(e) => {
            if let Some(verdict) = refusal(&e) {
                return verdict;
            }
        }
    }
    let admits_a_server = try_bind(protocol, ip, port, BindMode::Server).is_ok();
    // A look at the listeners alone is a hundred times as cheap, and mostly enough.
    if !admits_a_server
        && sockets::listening(port, protocol)
            .is_ok_and(|rows| rows.iter().any(|row| matches_addr(row, ip)))
    {
        return Verdict::InUse(Cause::Holder);
    }
    let table = match sockets::sockets(port, Some(protocol)) {
        Ok(table) => table,
        Err(e) if is_out_of_descriptors(&e) => {
            return Verdict::CannotTell(OsMessage(&e).to_string());
        }
        // No table on this system.
        Err(_) => Table {
            rows: Vec::new(),
            unseen: vec![Incompleteness::Sockets(protocol)],
        },
    };
    let others: Vec<&Row> = table
        .rows
        .iter()
        .filter(|row| matches_addr(row, ip) && !context.is_claim(row))
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
    let admits_one_now = || waits > 0 && try_bind(protocol, ip, port, BindMode::Server).is_ok();
    if others.iter().any(stands) {
        Verdict::InUse(Cause::Holder)
    } else if admits_a_server || admits_one_now() {
        let explained = context.own.is_some() || !others.is_empty();
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
    Verdict::InUse(if ports::is_excluded(protocol, port) {
        Cause::Excluded
    } else {
        Cause::Unexplained
    })
}

/// What a look tells without a bind, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum QuickStatus {
    /// In use, and as cheap to see again.
    Busy,
    /// In use, by what takes a walk over every socket to see.
    LeaseLock,
    /// A bind must tell.
    MaybeFree,
}

/// Looks whether somebody obviously has the port. Binds nothing, so that a wait is in nobody's way.
pub(crate) fn glance(endpoint: Endpoint, asker: Asker) -> io::Result<QuickStatus> {
    let protocol = endpoint.protocol.unwrap_or(Protocol::Tcp);
    let context = PortContext::of(endpoint, asker)?;
    if context.conflict().is_some() {
        return Ok(QuickStatus::Busy);
    }
    let table = match sockets::glance(endpoint.port, protocol) {
        Ok(table) => table,
        Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(QuickStatus::MaybeFree),
        Err(e) => return Err(e),
    };
    let others = table
        .rows
        .iter()
        .filter(|row| matches_addr(row, endpoint.ip) && !context.is_claim(row));
    let look = |row: &Row| match row.state {
        State::Listen => QuickStatus::Busy,
        State::Bound if protocol != Protocol::Tcp => QuickStatus::Busy,
        State::Bound | State::Connected => QuickStatus::LeaseLock,
        // A number that was dialled out from is nobody else's; what a server left may admit another one.
        _ if row.client => QuickStatus::LeaseLock,
        _ => QuickStatus::MaybeFree,
    };
    Ok(others.map(look).min().unwrap_or(QuickStatus::MaybeFree))
}

/// What a refused bind says by itself; `None` is "address in use", of which the table says more.
fn refusal(error: &io::Error) -> Option<Verdict> {
    match error.kind() {
        io::ErrorKind::AddrInUse => None,
        io::ErrorKind::AddrNotAvailable => Some(Verdict::NoSuchAddress),
        io::ErrorKind::PermissionDenied => Some(Verdict::Privileged),
        _ if is_out_of_descriptors(error) => Some(Verdict::CannotTell(format!(
            "{}: this process is at its limit of file descriptors (ulimit -n)",
            OsMessage(error)
        ))),
        _ => Some(Verdict::CannotBind(OsMessage(error).to_string())),
    }
}

/// Whether a socket bears on somebody who asks about this address.
pub(crate) fn matches_addr(row: &Row, ip: Option<IpAddr>) -> bool {
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
    use crate::reserve::options::ReserveOptions;

    #[test]
    fn a_glance_tells_without_a_bind_whoever_obviously_has_a_port() {
        let look = |port: u16, protocol| glance(Endpoint::of(port, protocol), Asker::All).unwrap();
        let reserved = ReserveOptions::new().tcp_and_udp().reserve().unwrap();
        assert_eq!(
            look(reserved.port(), Protocol::Tcp),
            QuickStatus::MaybeFree,
            "its own"
        );
        assert_eq!(
            glance(Endpoint::of(reserved.port(), Protocol::Udp), Asker::None).unwrap(),
            QuickStatus::Busy,
            "reserved by another"
        );

        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(
            look(udp.local_addr().unwrap().port(), Protocol::Udp),
            QuickStatus::Busy
        );
        udp.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
        assert_eq!(
            look(udp.local_addr().unwrap().port(), Protocol::Udp),
            QuickStatus::LeaseLock
        );

        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        assert_eq!(
            look(server.local_addr().unwrap().port(), Protocol::Tcp),
            QuickStatus::Busy
        );
        assert_eq!(
            look(client.local_addr().unwrap().port(), Protocol::Tcp),
            QuickStatus::LeaseLock
        );
    }
}
