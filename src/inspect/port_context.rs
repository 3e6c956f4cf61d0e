//! [`PortContext`]: the reservation of a port, and whether it is the asker's own. The [`Asker`] is
//! the process or the reservation for which the port is checked.

use std::io;
use std::num::NonZeroU64;

use crate::lease;
use crate::model::diagnosis::verdict::Cause;
use crate::model::lease_info::Lease;
use crate::model::port::Port;
use crate::os_error::is_out_of_descriptors;
use crate::ownership::{Asker, Owned};
use crate::residual;
use crate::sockets::Row;

pub(super) struct PortContext {
    pub(super) port: Port,
    lease: Option<Lease>,
    /// The asker's own reservation of the port; `None` if the asker has not reserved it.
    pub(super) own: Option<Owned>,
}

impl PortContext {
    pub(super) fn read(port: Port, asker: Asker) -> io::Result<PortContext> {
        let lease = match lease::peek(port) {
            Ok(lease) => lease,
            Err(unusable) if is_out_of_descriptors(&unusable.cause) => return Err(unusable.cause),
            // If the lock folder cannot be read, the check goes on as if the port had no lease.
            Err(_) => None,
        };
        let own = asker.owned(port, lease.as_ref());
        Ok(PortContext { port, lease, own })
    }

    /// How another reservation blocks the port for the asker; `None` if no other reservation has
    /// it.
    pub(super) fn conflict(&self) -> Option<Cause> {
        match (&self.own, &self.lease) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(Cause::Reserved),
            (None, None) => residual::is_named(self.port).then_some(Cause::Named),
        }
    }

    /// Returns `true` if the socket is a claim (the bound socket of a reservation): the asker's own
    /// claim, or the claim in the record of the lease.
    pub(super) fn is_claim(&self, row: &Row) -> bool {
        let own = self.own.and_then(|own| own.claim);
        let recorded = self.lease.as_ref().and_then(Lease::record);
        let recorded = recorded.and_then(|record| record.socket);
        let is = |claim: Option<NonZeroU64>| claim.is_some() && claim == row.inode;
        is(own) || is(recorded)
    }
}
