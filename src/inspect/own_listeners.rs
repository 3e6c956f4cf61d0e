//! [`OwnListeners`]: the listeners of the expected process on other ports than the expected ones.

use std::collections::HashSet;
use std::io;

use super::expected::Expected;
use crate::lease;
use crate::model::endpoint::Protocol;
use crate::model::holder::Holder;
use crate::model::lease_info::Lease;
use crate::model::port::Port;
use crate::sockets::{self, ScanDepth};

/// The listeners of the expected process on ports that the call does not name. A report shows them,
/// because the server may have taken another number.
#[derive(Debug, Default)]
pub(crate) struct OwnListeners(Vec<(Holder, Vec<Reserver>)>);

/// The pid of a process that reserved a port, or for which a port was reserved.
type Reserver = u32;

impl OwnListeners {
    /// Reads the listeners of the expected process on the ports that are not in `asked`. Reads only
    /// the protocols that occur in `asked`. The list is empty if the expected process is the
    /// calling process, which may run any number of servers.
    pub(crate) fn of(expected: &Expected, asked: &[Port]) -> io::Result<OwnListeners> {
        if expected.pid() == Some(std::process::id()) {
            return Ok(OwnListeners::default());
        }
        let mut rows = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            if asked.iter().any(|port| port.protocol == protocol) {
                rows.extend(sockets::listening_between(1, u16::MAX, protocol)?);
            }
        }
        let asked: HashSet<_> = asked.iter().map(|of| (of.number, of.protocol)).collect();
        rows.retain(|row| !asked.contains(&(row.local.port(), row.protocol)));
        let mut holders = sockets::owners(rows, ScanDepth::Complete)?.holders;
        let mut has = expected.judge();
        holders.retain(|holder| holder.is_server() && has(holder));
        let with_reservers = |holder: Holder| {
            let reservers = reservers(holder.local.port());
            (holder, reservers)
        };
        Ok(OwnListeners(
            holders.into_iter().map(with_reservers).collect(),
        ))
    }

    /// The listeners on other ports than `port`, as two lists. The first list has those that the
    /// expected process may have opened on a wrong port, instead of on `port`. The second list has
    /// those on ports that the process which reserved `port` has reserved too. A process that
    /// reserves two ports usually means them for two servers.
    pub(crate) fn beside(&self, port: Port) -> (Vec<Holder>, Vec<Holder>) {
        let own = reservers(port.number);
        let (mut instead, mut of_same_reserver) = (Vec::new(), Vec::new());
        for (holder, reservers) in &self.0 {
            if holder.protocol != port.protocol || holder.local.port() == port.number {
                continue;
            }
            let list = match reservers.iter().any(|of| own.contains(of)) {
                true => &mut of_same_reserver,
                false => &mut instead,
            };
            list.push(holder.clone());
        }
        (instead, of_same_reserver)
    }
}

/// Who reserved the number, for TCP or UDP.
fn reservers(number: u16) -> Vec<Reserver> {
    let leases = lease::of_number(number, &[Protocol::Tcp, Protocol::Udp]);
    let reserver = |lease: &Lease| lease.on_behalf_of().or(lease.pid());
    leases.iter().filter_map(reserver).collect()
}
