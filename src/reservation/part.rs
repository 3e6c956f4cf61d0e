//! [`ProtocolReservation`] keeps the port of one protocol by a claim (a bound socket), an abstract
//! Unix socket name, a lease (a locked file), or several of these.

use std::io;

use super::Guarantee;
use crate::claim::{Claim, ExclusiveName, assigns_no_claimed_port};
use crate::lease::LeaseLock;
use crate::model::error::Error;
use crate::model::port::Port;
use crate::model::record::Record;
use crate::ownership::Guard;
use crate::ports::EphemeralRange;

/// Keeps one port of one protocol until this value is dropped.
#[derive(Debug)]
pub(crate) struct ProtocolReservation {
    pub(super) port: Port,
    guarantee: Guarantee,
    // Fields drop in this order. The guard drops first: it removes this reservation from the table
    // of the process before another thread can reserve the number. The lease drops last: the next
    // process that takes the lease must find the port free.
    pub(super) guard: Guard,
    pub(super) claim: Option<Claim>,
    _name: Option<ExclusiveName>,
    /// The lease (a locked file), or why there is no lease.
    pub(super) lease: Result<LeaseLock, String>,
    /// Why the lease has no record, if writing the record failed.
    pub(super) unrecorded: Option<String>,
}

impl ProtocolReservation {
    pub(crate) fn new(
        port: Port,
        claim: Option<Claim>,
        name: Option<ExclusiveName>,
        lease: Result<LeaseLock, String>,
        guarantee: Guarantee,
    ) -> Self {
        let inode = claim.as_ref().and_then(Claim::inode);
        ProtocolReservation {
            port,
            guarantee,
            guard: Guard::new(port, inode),
            claim,
            _name: name,
            lease,
            unrecorded: None,
        }
    }

    /// The guarantee that holds now. For three reasons, it can be lower than when the reservation
    /// was made:
    ///
    /// - The kernel may now assign a number although a claim (a bound socket) has it, because a
    ///   setting of the system has changed.
    /// - No claim has the number, and a changed setting has made the number ephemeral.
    /// - The settings cannot be read now.
    pub(super) fn guarantee(&self) -> Guarantee {
        match self.guarantee {
            Guarantee::Kernel if matches!(assigns_no_claimed_port(), Ok(Ok(()))) => {
                Guarantee::Kernel
            }
            Guarantee::Cooperative if self.claim.is_some() => Guarantee::Cooperative,
            Guarantee::BestEffort => Guarantee::BestEffort,
            // If the ephemeral range cannot be read, it may contain the number. So the kernel may
            // assign the number.
            _ => Guarantee::without_claim(self.port.number).unwrap_or(Guarantee::BestEffort),
        }
    }

    /// Writes the record of the lease. If the write fails, for example on a full disk, the lease
    /// still holds. [`lease_error`](super::Reservation::lease_error) then says why there is no
    /// record. Without a record, reports do not name this process, and a descendant of this process
    /// does not count the reservation as its own.
    pub(crate) fn publish(&mut self, record: &Record) {
        if let Ok(lease) = &mut self.lease {
            let record = Record {
                socket: self.guard.claim(),
                ..record.clone()
            };
            if let Err(cause) = lease.publish(&record) {
                let error = Error::lock_folder(lease.folder(), cause);
                self.unrecorded = Some(error.to_string());
            }
        }
    }
}

impl Guarantee {
    /// The guarantee for a number that no claim (bound socket) keeps. The guarantee depends on the
    /// current ephemeral range. Fails if the range cannot be read for a lack of descriptors or
    /// memory.
    pub(crate) fn without_claim(number: u16) -> io::Result<Guarantee> {
        Ok(if EphemeralRange::read()?.surely_excludes(number) {
            Guarantee::Cooperative
        } else {
            Guarantee::BestEffort
        })
    }
}
