//! [`who_holds`]: every socket on a port with its processes, and the reservations.

use std::io;

use once_cell::unsync::Lazy;

use super::ephemeral_usage;
use super::inheritance;
use super::{relation, sight};
use crate::lease;
use crate::model::diagnosis::verdict::named_by;
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::error::{Error, Result};
use crate::model::holder::Holder;
use crate::model::holders::Holders;
use crate::model::incompleteness::Incompleteness;
use crate::model::listeners::Listeners;
use crate::model::port::Port;
use crate::model::to_endpoint::ToEndpoint;
use crate::namespace::Memo;
use crate::residual;
use crate::sockets::{self, OwnedRows, PortTables, Row, ScanDepth};

/// Reports every socket on a port and its processes, in each state and of each protocol. Also
/// reports the reservations of the port. If the operand `port` names a protocol, the report is
/// about that protocol only.
///
/// The call answers what `lsof -i`, `ss`, `netstat`, `fuser` and `tasklist` answer. It also shows
/// bound sockets that do not listen, connections in TIME_WAIT, and the sockets of other users. On
/// Linux, only root sees the processes of other users. The call makes no connection. An empty
/// answer can mean that something could not be read: see [`Holders::is_complete`]. On Linux the
/// report says what uses the ephemeral TCP ports, if at least half of them are in use: see
/// [`Holders::ephemeral_usage`].
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
/// - [`InvalidPort`](crate::ErrorKind::InvalidPort) if the operand names no port.
/// - [`AddressNotAvailable`](crate::ErrorKind::AddressNotAvailable) if the operand is a text with a
///   network interface that this machine does not have.
/// - [`Unsupported`](crate::ErrorKind::Unsupported) on systems other than Linux, macOS and Windows,
///   and on Linux without sock_diag(7) and `/proc/net`.
/// - [`PermissionDenied`](crate::ErrorKind::PermissionDenied) if a sandbox forbids reading the
///   socket tables.
/// - [`Io`](crate::ErrorKind::Io) if no socket table can be read for another reason, or if the
///   process is out of file descriptors.
///
/// # Platform-specific behavior
///
/// On Linux the sockets come from sock_diag(7). Where sock_diag(7) is missing, they come from
/// `/proc/net`, which does not show TCP sockets that are bound without listening. The processes
/// come from `/proc/PID/fd` (proc(5)).
///
/// On macOS sockets and processes come from `libproc`, which lists the sockets of one process at a
/// time. It does not show the sockets of a process that this user may not inspect. It shows no TCP
/// sockets without a process either, such as those in TIME_WAIT. So an answer about TCP is never
/// [complete](Holders::is_complete). This code was compiled, but never run.
///
/// On Windows sockets and processes come from `GetExtendedTcpTable` and `GetExtendedUdpTable`.
/// These tables name one process for each socket. They omit the peers of UDP sockets, and TCP
/// sockets that are only bound. So an answer about TCP is never [complete](Holders::is_complete).
/// The name of a process is always known. Its program and start are known if this user may open the
/// process. Users are not reported.
#[doc(alias = "lsof")]
#[doc(alias = "fuser")]
#[doc(alias = "netstat")]
#[doc(alias = "ss")]
pub fn who_holds(port: impl ToEndpoint) -> Result<Holders> {
    let mut each = answer_each(&[port.to_endpoint()?])?;
    Ok(each.pop().expect("one answer for each endpoint"))
}

/// The results of [`who_holds`] for several ports, in the order of `ports`. Each search of the
/// processes serves all ports.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let ports = portlease::reserve_ports::<3>();
/// let servers: Vec<_> = ports.iter().map(|p| p.listen()).collect::<Result<_, _>>()?;
/// for holders in portlease::who_holds_each(&ports)? {
///     assert_eq!(holders.iter().next().unwrap().processes[0].pid, std::process::id());
/// }
/// # drop(servers);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The errors of [`who_holds`]. If one port cannot be inspected, the whole call fails.
pub fn who_holds_each<P: ToEndpoint>(ports: impl IntoIterator<Item = P>) -> Result<Vec<Holders>> {
    let endpoints = ports.into_iter().map(|port| port.to_endpoint());
    answer_each(&endpoints.collect::<Result<Vec<_>, _>>()?)
}

fn answer_each(endpoints: &[Endpoint]) -> Result<Vec<Holders>> {
    let Some(first) = endpoints.first() else {
        return Ok(Vec::new());
    };
    let _memo = Memo::new();
    let all = holders_of_each(endpoints, ScanDepth::Complete)
        .map_err(|cause| Error::of_system("inspect", &first.to_string(), cause))?;
    let usage = Lazy::new(|| ephemeral_usage::if_crowded(&[Protocol::Tcp]));
    let has_address = |endpoint: &&Endpoint| endpoint.ip.is_some();
    let addressed = endpoints.iter().filter(has_address).copied();
    let mut elsewhere = elsewhere(&addressed.map(Port::of).collect::<Vec<_>>()).into_iter();
    let answer = |(endpoint, holders): (&Endpoint, Holders)| {
        let is_tcp = Protocol::requested(&endpoint.protocol).contains(&Protocol::Tcp);
        let usage = is_tcp.then(|| usage.clone()).flatten();
        let of_name = |protocol| inheritance::of_name(Port::new(endpoint.port, protocol));
        let holders = holders.with_ephemeral_usage(usage);
        let holders = holders.with_unrecorded_leases(of_name);
        match endpoint.ip {
            None => holders,
            Some(_) => {
                let elsewhere = elsewhere.next().unwrap_or_default();
                holders.at_address(Port::of(*endpoint), elsewhere)
            }
        }
    };
    Ok(endpoints.iter().zip(all).map(answer).collect())
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
/// - [`Unsupported`](crate::ErrorKind::Unsupported) on systems other than Linux, macOS and Windows,
///   and on Linux without sock_diag(7) and `/proc/net`.
/// - [`PermissionDenied`](crate::ErrorKind::PermissionDenied) if a sandbox forbids reading the
///   socket table.
/// - [`Io`](crate::ErrorKind::Io) if the table cannot be read for another reason, or if the process
///   is out of file descriptors.
pub fn listeners() -> Result<Listeners> {
    let read = || {
        let mut owned = sockets::owners(sockets::all_listeners()?, ScanDepth::Complete)?;
        relation::note(owned.holders.iter_mut());
        sight::note_unseen(&mut owned.holders, &mut owned.unseen);
        Ok(Listeners::new(owned.holders, owned.unseen))
    };
    read().map_err(|cause| Error::of_system("inspect", "the listeners", cause))
}

/// For each number that is taken, returns a sentence (the headline) that names the owner. One
/// search for the owners of sockets serves all numbers. The search ends when each socket has a
/// known owner.
pub(crate) fn headlines(numbers: &[u16], protocols: &[Protocol]) -> Vec<(u16, String)> {
    let ports = numbers.iter().flat_map(|number| {
        protocols
            .iter()
            .map(|protocol| Port::new(*number, *protocol))
    });
    let rows = ports.filter_map(|port| sockets::sockets(port.number, Some(port.protocol)).ok());
    let rows = rows.flat_map(|table| table.rows).collect();
    // The search for the owners can fail, for example for lack of descriptors. Then only the
    // numbers with a reservation get a headline.
    let mut owned = sockets::owners(rows, ScanDepth::FirstHit).unwrap_or_default();
    sight::note_unseen(&mut owned.holders, &mut owned.unseen);
    sight::note_direction(owned.holders.iter_mut());
    let headline = |&number: &u16| {
        let of_number = |holder: &&Holder| holder.local.port() == number;
        let rows = owned.holders.iter().filter(of_number).cloned().collect();
        let leases = inheritance::of_leases(lease::of_number(number, protocols));
        let holders = Holders::new(number, None, rows, leases, Vec::new());
        if !holders.is_empty() {
            return Some((number, holders.headline()));
        }
        // The lease of a reservation may be in another lock folder. If the reservation also has no
        // claim (a bound socket of this crate), only its abstract Unix socket name shows it.
        let mut ports = protocols.iter().map(|of| Port::new(number, *of));
        let port = ports.find(|port| residual::is_named(*port))?;
        Some((number, named_by(inheritance::of_name(port).first())))
    };
    numbers.iter().filter_map(headline).collect()
}

/// For each port, the listeners on the same number at addresses that do not match. Empty if the
/// sockets cannot be read.
fn elsewhere(ports: &[Port]) -> Vec<Vec<Holder>> {
    let listeners = listeners_where(ports, |port, row| !row.matches_addr(port.ip, port.scope_id));
    listeners.unwrap_or_else(|_| vec![Vec::new(); ports.len()])
}

/// For each port, the listeners on the same number that a client of the port's address does not
/// reach. Empty if the sockets cannot be read.
pub(super) fn unreachable(ports: &[Port]) -> Vec<Vec<Holder>> {
    let is_reached = |port: &Port, row: &Row| row.is_reachable_at(port.ip, port.scope_id);
    let listeners = listeners_where(ports, |port, row| !is_reached(port, row));
    listeners.unwrap_or_else(|_| vec![Vec::new(); ports.len()])
}

/// For each port, the listeners that a client of the port's address reaches.
pub(crate) fn reachable(ports: &[Port]) -> io::Result<Vec<Vec<Holder>>> {
    listeners_where(ports, |port, row| {
        row.is_reachable_at(port.ip, port.scope_id)
    })
}

fn listeners_where(
    ports: &[Port],
    is_meant: impl Fn(&Port, &Row) -> bool,
) -> io::Result<Vec<Vec<Holder>>> {
    let tables = PortTables::of(ports.iter().map(|port| Some(port.protocol)))?;
    let listeners = |port: &Port| {
        let mut rows = tables.listening(port.number, port.protocol)?;
        rows.retain(|row| is_meant(port, row));
        Ok(rows)
    };
    let rows = ports.iter().map(listeners).collect::<io::Result<_>>()?;
    let mut owned = sockets::owners_of_each(rows, ScanDepth::Complete)?;
    relation::note(owned.iter_mut().flat_map(|of| &mut of.holders));
    let listeners = |mut of_port: OwnedRows| {
        sight::note_unseen(&mut of_port.holders, &mut of_port.unseen);
        of_port.holders
    };
    Ok(owned.into_iter().map(listeners).collect())
}

/// For each endpoint, every socket that matches its port, address and protocol, and the leases on
/// the port. Each scan of the processes serves all endpoints.
pub(crate) fn holders_of_each(
    endpoints: &[Endpoint],
    depth: ScanDepth,
) -> io::Result<Vec<Holders>> {
    let tables = PortTables::of(endpoints.iter().map(|endpoint| endpoint.protocol))?;
    let table = |endpoint: &Endpoint| {
        let mut table = tables.sockets(endpoint.port, endpoint.protocol)?;
        let at = Port::of(*endpoint);
        table
            .rows
            .retain(|row| row.matches_addr(at.ip, at.scope_id));
        Ok((table.rows, table.unseen))
    };
    let tables = endpoints
        .iter()
        .map(table)
        .collect::<io::Result<Vec<_>>>()?;
    let (rows, unseen): (Vec<_>, Vec<_>) = tables.into_iter().unzip();
    let mut owned = sockets::owners_of_each(rows, depth)?;
    relation::note(owned.iter_mut().flat_map(|of| &mut of.holders));
    sight::note_direction(owned.iter_mut().flat_map(|of| &mut of.holders));
    let leases = |endpoint: &Endpoint| {
        let protocols = Protocol::requested(&endpoint.protocol);
        lease::of_number(endpoint.port, protocols)
    };
    let leases = inheritance::of_each(endpoints.iter().map(leases).collect());
    let mut found = Vec::new();
    let parts = owned.into_iter().zip(unseen).zip(leases);
    for (endpoint, ((mut owned, mut unseen), leases)) in endpoints.iter().zip(parts) {
        unseen.extend(owned.unseen);
        sight::note_unseen(&mut owned.holders, &mut unseen);
        for &protocol in Protocol::requested(&endpoint.protocol) {
            let has_lease = leases.iter().any(|lease| lease.protocol() == protocol);
            if !has_lease && residual::is_named(Port::new(endpoint.port, protocol)) {
                unseen.push(Incompleteness::Lease(protocol));
            }
        }
        let (port, protocol) = (endpoint.port, endpoint.protocol);
        found.push(Holders::new(port, protocol, owned.holders, leases, unseen));
    }
    Ok(found)
}
