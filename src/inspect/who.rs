//! [`who_holds`]: every socket on a port with its processes, and the reservations.

use std::io;

use super::ephemeral_usage;
use super::inheritance;
use super::port_context::is_named;
use super::{relation, sight};
use crate::lease;
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::error::{Error, Result};
use crate::model::holder::Holder;
use crate::model::holders::Holders;
use crate::model::incompleteness::Incompleteness;
use crate::model::listeners::Listeners;
use crate::model::port::Port;
use crate::model::to_endpoint::ToEndpoint;
use crate::namespace::Memo;
use crate::sockets::{self, Row, ScanDepth, Table};

/// Reports every socket on a port, in each state and of each protocol, with its processes, and the
/// reservations of the port. If the operand names a protocol, only that protocol counts.
///
/// The call answers what `lsof -i`, `ss`, `netstat`, `fuser` and `tasklist` answer. It also shows
/// bound sockets that do not listen, connections in TIME_WAIT, and the sockets of other users. On
/// Linux, only root sees the processes of other users. The call makes no connection. An empty
/// answer can mean that something could not be read: see [`Holders::is_complete`]. If at least half
/// of the ephemeral range is in use, the report says by what: see [`Holders::ephemeral_usage`].
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
/// A complete program is `examples/who_holds.rs`:
///
/// ```text
#[doc = include_str!("../../examples/who_holds.rs")]
/// ```
///
/// # Errors
///
/// [`InvalidPort`](crate::ErrorKind::InvalidPort) if the operand names no port,
/// [`Unsupported`](crate::ErrorKind::Unsupported) on systems other than Linux, macOS and Windows,
/// [`Io`](crate::ErrorKind::Io) if the process is out of file descriptors.
///
/// # Platform-specific behavior
///
/// On Linux the sockets come from sock_diag(7). Where sock_diag(7) is missing, they come from
/// `/proc/net`, which does not show TCP sockets that are bound without listening. The processes
/// come from `/proc/PID/fd` (proc(5)).
///
/// On macOS sockets and processes come from `libproc`, which lists the sockets of one process at a
/// time. It shows neither sockets without a process nor the sockets of a process that this user may
/// not inspect. So an answer about TCP is never [complete](Holders::is_complete). This code was
/// compiled, but never run.
///
/// On Windows sockets and processes come from `GetExtendedTcpTable` and `GetExtendedUdpTable`.
/// These tables name one process for each socket. They omit TCP sockets that are bound but neither
/// listen nor connect, and the peers of UDP sockets. So an answer about TCP is never
/// [complete](Holders::is_complete). The name of a process is always known. Its program and start
/// are known if this user may open the process. Users are not reported.
#[doc(alias = "lsof")]
#[doc(alias = "fuser")]
#[doc(alias = "netstat")]
#[doc(alias = "ss")]
pub fn who_holds(port: impl ToEndpoint) -> Result<Holders> {
    let endpoint = port.to_endpoint()?;
    let _memo = Memo::new();
    let holders = holders(endpoint, ScanDepth::Complete)
        .map_err(|cause| Error::of_system("inspect", &endpoint.to_string(), cause))?;
    let protocols = Protocol::requested(&endpoint.protocol);
    let holders = holders.with_ephemeral_usage(ephemeral_usage::if_crowded(protocols));
    if endpoint.ip.is_none() {
        return Ok(holders);
    }
    let port = Port::of(endpoint);
    Ok(holders.at_address(port, elsewhere(port)))
}

/// Every TCP socket that listens, on any port, with its processes. Sorted by port and address.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let listeners = portlease::listeners()?;
/// assert!(listeners.iter().any(|socket| socket.local == p.addr()));
/// # drop(server);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Unsupported`](crate::ErrorKind::Unsupported) on systems other than Linux, macOS and Windows,
/// [`Io`](crate::ErrorKind::Io) if the socket table cannot be read or the process is out of file
/// descriptors.
pub fn listeners() -> Result<Listeners> {
    let read = || {
        let mut owned = sockets::owners(sockets::all_listeners()?, ScanDepth::Complete)?;
        relation::note(&mut owned.holders);
        sight::note_unseen(&mut owned.holders, &mut owned.unseen);
        Ok(Listeners::new(owned.holders, owned.unseen))
    };
    read().map_err(|cause| Error::of_system("inspect", "the listeners", cause))
}

/// For each of these numbers that is taken, returns a sentence that says by whom. One search for
/// processes serves all numbers, and ends when each socket has an owner.
pub(crate) fn headlines(numbers: &[u16], protocols: &[Protocol]) -> Vec<(u16, String)> {
    let ports = numbers.iter().flat_map(|number| {
        protocols
            .iter()
            .map(|protocol| Port::new(*number, *protocol))
    });
    let rows = ports.filter_map(|port| sockets::sockets(port.number, Some(port.protocol)).ok());
    let rows = rows.flat_map(|table| table.rows).collect();
    // If the processes cannot be read, the sentences name only reservations.
    let mut owned = sockets::owners(rows, ScanDepth::FirstHit).unwrap_or_default();
    sight::note_unseen(&mut owned.holders, &mut owned.unseen);
    sight::note_direction(&mut owned.holders);
    let headline = |&number: &u16| {
        let of_number = |holder: &&Holder| holder.local.port() == number;
        let rows = owned.holders.iter().filter(of_number).cloned().collect();
        let leases = inheritance::of_leases(lease::of_number(number, protocols));
        let holders = Holders::new(number, None, rows, leases, Vec::new());
        (!holders.is_empty()).then(|| (number, holders.headline()))
    };
    numbers.iter().filter_map(headline).collect()
}

/// The listeners on the same number, at addresses that do not match `port`.
fn elsewhere(port: Port) -> Vec<Holder> {
    listeners_where(port, |row| !row.matches_addr(port.ip, port.scope_id)).unwrap_or_default()
}

/// The listeners on the same number that clients of the address of `port` do not reach.
pub(super) fn unreachable(port: Port) -> Vec<Holder> {
    listeners_where(port, |row| !row.is_reachable_at(port.ip, port.scope_id)).unwrap_or_default()
}

/// The listeners that clients of the address of `port` reach.
pub(crate) fn reachable(port: Port) -> io::Result<Vec<Holder>> {
    listeners_where(port, |row| row.is_reachable_at(port.ip, port.scope_id))
}

fn listeners_where(port: Port, is_meant: impl Fn(&Row) -> bool) -> io::Result<Vec<Holder>> {
    let mut rows = sockets::listening(port.number, port.protocol)?;
    rows.retain(is_meant);
    Ok(sockets::owners(rows, ScanDepth::Complete)?.holders)
}

/// Every socket that matches the endpoint's port, address and protocol, and the leases on the port.
pub(crate) fn holders(endpoint: Endpoint, depth: ScanDepth) -> io::Result<Holders> {
    let Table {
        mut rows,
        mut unseen,
    } = sockets::sockets(endpoint.port, endpoint.protocol)?;
    let at = Port::of(endpoint);
    rows.retain(|row| row.matches_addr(at.ip, at.scope_id));
    let mut owned = sockets::owners(rows, depth)?;
    unseen.extend(owned.unseen);
    relation::note(&mut owned.holders);
    sight::note_unseen(&mut owned.holders, &mut unseen);
    sight::note_direction(&mut owned.holders);
    let protocols = Protocol::requested(&endpoint.protocol);
    let leases = inheritance::of_leases(lease::of_number(endpoint.port, protocols));
    for &protocol in protocols {
        let has_lease = leases.iter().any(|lease| lease.protocol() == protocol);
        if !has_lease && is_named(Port::new(endpoint.port, protocol)) {
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
