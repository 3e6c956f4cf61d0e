//! This process's own reservations: what a check of a bare number must not hold against its caller.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::sync::Lazy;
use parking_lot::Mutex;

use crate::model::endpoint::{Endpoint, Protocol};

/// A reservation's entry, taken out when it is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    key: (u16, Protocol),
    own: ProcessReservation,
}

// parking_lot's: a test that panics with a reservation in hand must not poison the table for the others.
static TABLE: Lazy<Mutex<HashMap<(u16, Protocol), ProcessReservation>>> = Lazy::new(Mutex::default);

/// One of this process's reservations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessReservation {
    pub(crate) id: u64,
    /// The inode of its claim's socket; 0 where there is none.
    pub(crate) socket: u64,
}

impl Guard {
    pub(crate) fn new(endpoint: Endpoint, socket: u64) -> Guard {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let key = (endpoint.port, endpoint.protocol.unwrap_or(Protocol::Tcp));
        let own = ProcessReservation {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            socket,
        };
        TABLE.lock().insert(key, own);
        Guard { key, own }
    }

    pub(crate) fn id(&self) -> u64 {
        self.own.id
    }

    /// Makes it an entry of the reservation that the other one belongs to.
    pub(crate) fn join(&mut self, other: &Guard) {
        self.own.id = other.own.id;
        TABLE.lock().insert(self.key, self.own);
    }

    pub(crate) fn socket(&self) -> u64 {
        self.own.socket
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        if table
            .get(&self.key)
            .is_some_and(|own| own.id == self.own.id)
        {
            table.remove(&self.key);
        }
    }
}

/// The reservation of this process that has the port.
pub(crate) fn reservation_of(port: u16, protocol: Protocol) -> Option<ProcessReservation> {
    TABLE.lock().get(&(port, protocol)).copied()
}
