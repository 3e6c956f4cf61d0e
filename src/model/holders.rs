//! [`Holders`]: every socket on a port, and the reservations of the port.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::slice;
use std::vec;

use super::endpoint::Protocol;
use super::ephemeral_usage::EphemeralUsage;
use super::holder::Holder;
use super::incompleteness::{Incompleteness, sorted};
use super::lease_info::Lease;
use super::port::Port;
use super::process::Process;
use super::state::State;

/// Every socket on one port, and the reservations of the port: the result of
/// [`who_holds`](crate::who_holds).
///
/// To get the sockets, iterate over the value. `Display` prints the report for people.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let holders = portlease::who_holds(&p)?;
/// for holder in &holders {
///     println!("{:?} {}", holder.state, holder.local);
/// }
/// println!("{holders}"); // the report for people
/// # drop(server);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Holders {
    pub(super) port: u16,
    pub(super) protocol: Option<Protocol>,
    /// The address that was queried; `None` for every address.
    pub(super) ip: Option<IpAddr>,
    /// The interface index that the queried address stores, or 0 if the address stores none. Only
    /// link-local addresses and some multicast addresses store one.
    pub(super) scope_id: u32,
    /// Listeners on the same number, at addresses that do not match the queried address.
    pub(super) elsewhere: Vec<Holder>,
    rows: Vec<Holder>,
    pub(super) leases: Vec<Lease>,
    pub(super) unseen: Vec<Incompleteness>,
    pub(super) ephemeral_usage: Option<EphemeralUsage>,
}

impl Holders {
    /// Sorts the sockets in the order of the report: listening, bound, connected, TIME_WAIT. Also
    /// sets [`shared`](Holder::shared) of each socket.
    pub(crate) fn new(
        port: u16,
        protocol: Option<Protocol>,
        mut rows: Vec<Holder>,
        leases: Vec<Lease>,
        unseen: Vec<Incompleteness>,
    ) -> Self {
        rows.sort_by_cached_key(order);
        for at in 0..rows.len() {
            let row = &rows[at];
            // A TCP socket that is bound without listening serves no address. An example is a claim
            // (this crate's bound socket).
            let serves = row.state == State::Listen || row.protocol != Protocol::Tcp;
            let mut others = rows.iter().enumerate();
            rows[at].shared = serves
                && others.any(|(other, socket)| other != at && row.shares_address_with(socket));
        }
        Holders {
            port,
            protocol,
            ip: None,
            scope_id: 0,
            elsewhere: Vec::new(),
            rows,
            leases,
            unseen: sorted(unseen),
            ephemeral_usage: None,
        }
    }

    pub(crate) fn with_ephemeral_usage(self, ephemeral_usage: Option<EphemeralUsage>) -> Self {
        Holders {
            ephemeral_usage,
            ..self
        }
    }

    /// Records that the query was for the address of `port` only, and which listeners are on other
    /// addresses.
    pub(crate) fn at_address(self, port: Port, elsewhere: Vec<Holder>) -> Self {
        Holders {
            ip: port.ip,
            scope_id: port.scope_id,
            elsewhere,
            ..self
        }
    }

    /// Adds a lease for each reservation whose lock file was not found and whose processes are
    /// visible. `holders` returns these processes.
    pub(crate) fn with_unrecorded_leases(
        mut self,
        holders: impl Fn(Protocol) -> Vec<Process>,
    ) -> Self {
        let is_unrecorded = |reason: &Incompleteness| matches!(reason, Incompleteness::Lease(_));
        let reasons = self.unseen.iter().filter(|reason| is_unrecorded(reason));
        for protocol in reasons.filter_map(|reason| reason.protocol()) {
            let holders = holders(protocol);
            if !holders.is_empty() {
                self.leases
                    .push(Lease::unrecorded(protocol, self.port, holders));
            }
        }
        self
    }

    /// The port number that was queried.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert_eq!(holders.port(), p.port());
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The sockets: listening ones first, then bound ones, connections and TIME_WAIT.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert!(holders.iter().any(|holder| holder.state == portlease::State::Listen));
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn iter(&self) -> slice::Iter<'_, Holder> {
        self.rows.iter()
    }

    pub(super) fn iter_mut(&mut self) -> slice::IterMut<'_, Holder> {
        self.rows.iter_mut()
    }

    /// The number of sockets.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert_eq!(holders.len(), holders.iter().count());
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns `true` if neither a socket nor a reservation was found. The port is certain to have
    /// no holder only if [`is_complete`](Holders::is_complete) also returns `true`.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert!(!holders.is_empty());
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.leases.is_empty()
    }

    /// Whether everything could be read.
    ///
    /// Returns `false` in these cases:
    ///
    /// - A socket is [hidden](Holder::hidden).
    /// - A process that could share a socket was not inspected.
    /// - A part of the socket table could not be read.
    /// - On Linux, a process has the abstract Unix socket name of a reservation of the port, but
    ///   this process sees no locked lock file of the reservation.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// if holders.is_empty() && !holders.is_complete() {
    ///     println!("nothing found, but not everything could be seen");
    /// }
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_complete(&self) -> bool {
        self.unseen.is_empty() && self.rows.iter().all(|holder| !holder.hidden)
    }

    /// What could not be read, one sentence for each reason. Empty if everything could be read.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// for reason in portlease::who_holds(60315)?.unseen() {
    ///     println!("not seen: {reason}"); // some processes could not be read: …
    /// }
    /// # }
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn unseen(&self) -> Vec<String> {
        self.unseen.iter().map(ToString::to_string).collect()
    }

    /// The reservations of this port, by this process and by others.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// assert_eq!(holders.leases()[0].pid(), Some(std::process::id()));
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn leases(&self) -> &[Lease] {
        &self.leases
    }

    /// How full the ephemeral range is. In a full range the kernel may find no number for
    /// `bind(…, 0)` or an outgoing connection. Returns `None` in these cases:
    ///
    /// - Fewer than half of the numbers in the range have a TCP socket.
    /// - The query was not for TCP.
    /// - The range or the number of TCP sockets cannot be read.
    ///
    /// # Platform-specific behavior
    ///
    /// `None` on systems other than Linux, where each report would have to read all sockets. On
    /// those systems only one error says how full the range is: the error of a TCP reservation that
    /// requested no range and found no port.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// if let Some(usage) = portlease::who_holds(60315)?.ephemeral_usage() {
    ///     println!("{usage}"); // 20000 of the 28232 ephemeral TCP ports 32768-60999 are in use: …
    /// }
    /// # }
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn ephemeral_usage(&self) -> Option<&EphemeralUsage> {
        self.ephemeral_usage.as_ref()
    }

    /// The reservation that owns this socket, if the socket is a claim (this crate's bound socket).
    /// `None` for any other socket, and for a claim that no record names.
    pub(crate) fn lease_of(&self, holder: &Holder) -> Option<&Lease> {
        let inode = NonZeroU64::new(holder.inode);
        let is_claim = |lease: &&Lease| {
            let record = lease.record();
            inode.is_some() && record.is_some_and(|record| record.socket == inode)
        };
        self.leases
            .iter()
            .filter(|_| holder.state == State::Bound)
            .find(is_claim)
    }

    /// Returns `true` if the socket is a claim (this crate's bound socket) and gets no line of its
    /// own in the report, because the line of its reservation is enough. A claim gets a line of its
    /// own if the recorded process has ended and another visible process owns the claim.
    pub(super) fn is_shown_by_lease(&self, holder: &Holder) -> bool {
        let lease = self.lease_of(holder);
        lease.is_some_and(|lease| lease.heir().is_none())
    }
}

/// The order of a report: the most important socket first.
fn order(holder: &Holder) -> impl Ord + use<> {
    let state = match holder.state {
        State::Listen => 0,
        State::Bound => 1,
        State::TimeWait => 3,
        _ => 2,
    };
    let pid = holder.processes.first().map(|process| process.pid);
    (
        state,
        holder.client,
        holder.protocol,
        pid.is_none(),
        holder.local.ip(),
        pid,
        holder.state.name(),
        holder.remote,
    )
}

impl IntoIterator for Holders {
    type Item = Holder;
    type IntoIter = vec::IntoIter<Holder>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}

impl<'a> IntoIterator for &'a Holders {
    type Item = &'a Holder;
    type IntoIter = slice::Iter<'a, Holder>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
