//! [`ProtocolReservation`]: the claim, name and lease that keep one protocol's port.

use super::Guarantee;
use crate::claim::{Claim, ExclusiveName, Identity, assigns_no_claimed_port};
use crate::lease::LeaseLock;
use crate::model::lease_info::Record;
use crate::model::port::Port;
use crate::ownership::Guard;
use crate::ports::EphemeralRange;

/// Keeps one port of one protocol.
#[derive(Debug)]
pub(crate) struct ProtocolReservation {
    pub(super) port: Port,
    guarantee: Guarantee,
    /// The file-system user of this process, if fstat(2) of the claim shows it.
    user: Option<u32>,
    // The fields are in drop order. The guard comes first: once the claim and the lease are gone,
    // another thread may reserve the number. The lease comes last: its next holder must find the
    // port free.
    pub(super) guard: Guard,
    pub(super) claim: Option<Claim>,
    _name: Option<ExclusiveName>,
    pub(super) lease: Option<LeaseLock>,
}

impl ProtocolReservation {
    pub(crate) fn new(
        port: Port,
        claim: Option<Claim>,
        name: Option<ExclusiveName>,
        lease: Option<LeaseLock>,
        guarantee: Guarantee,
    ) -> Self {
        // A claim whose inode is unknown works as well. Reports then show it like any bound socket.
        let identity = claim.as_ref().and_then(|claim| claim.identity().ok());
        let Identity { inode, user } = identity.unwrap_or_default();
        ProtocolReservation {
            port,
            guarantee,
            user,
            guard: Guard::new(port, inode),
            claim,
            _name: name,
            lease,
        }
    }

    /// The guarantee that holds now. It is weaker than at first if a setting has changed so that
    /// the kernel may assign the number.
    pub(super) fn guarantee(&self) -> Guarantee {
        match self.guarantee {
            Guarantee::Kernel if assigns_no_claimed_port().is_err() => {
                Guarantee::without_claim(self.port.number)
            }
            Guarantee::Cooperative if self.claim.is_none() => {
                Guarantee::without_claim(self.port.number)
            }
            guarantee => guarantee,
        }
    }

    /// Writes the record, which is a note for people. If there is no space for it, the lease holds
    /// all the same, and reports say that there is no record.
    pub(crate) fn publish(&mut self, record: &Record) {
        if let Some(lease) = &mut self.lease {
            let record = Record {
                socket: self.guard.claim(),
                ..record.clone()
            };
            let _noted = lease.publish(&record, self.user);
        }
    }
}

impl Guarantee {
    /// The guarantee for a number without a claim, by the ephemeral range as it is now. A lease and
    /// an abstract name keep such a number.
    pub(crate) fn without_claim(number: u16) -> Guarantee {
        if EphemeralRange::read().surely_excludes(number) {
            Guarantee::Cooperative
        } else {
            Guarantee::BestEffort
        }
    }
}
