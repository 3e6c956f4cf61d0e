//! [`ScanState`]: what one thread of a scan has found.

use std::io;

use rustix::io::Errno;

use super::super::super::{Inode, ScanResult};
use super::super::is_exhaustion;
use crate::model::incompleteness::Incompleteness;
use crate::model::process::Process;

/// What one thread of a scan has found.
#[derive(Default)]
pub(super) struct ScanState {
    pub(super) found: Vec<(Process, Vec<Inode>)>,
    /// The number of processes with descriptors that could not be read.
    pub(super) unreadable: usize,
    /// Processes that show no descriptor. If the first thread of a process has ended before the
    /// others, those can still show its descriptors.
    pub(super) empty: Vec<u32>,
    /// Processes that may not be read. For the same reason their other threads can be readable: the
    /// folder of a thread that has ended belongs to root.
    pub(super) denied: Vec<u32>,
    /// The io_urings, by process and descriptor. They can own sockets that have no descriptor.
    pub(super) rings: Vec<(u32, String)>,
    /// Processes with descriptors in flight.
    pub(super) in_flight: Vec<u32>,
    pub(super) buffer: Vec<u8>,
}

impl ScanState {
    pub(super) fn into_result(self, lists_all: bool) -> ScanResult {
        let mut unseen = Vec::new();
        if self.unreadable > 0 || !lists_all {
            unseen.push(Incompleteness::Processes);
        }
        unseen.extend(self.in_flight.into_iter().map(Incompleteness::InFlight));
        ScanResult {
            found: self.found,
            unseen,
        }
    }

    pub(super) fn merge(&mut self, other: ScanState) {
        self.found.extend(other.found);
        self.unreadable += other.unreadable;
        self.empty.extend(other.empty);
        self.denied.extend(other.denied);
        self.rings.extend(other.rings);
    }

    /// A process that has exited is skipped. One that cannot be read is counted.
    ///
    /// # Errors
    ///
    /// If descriptors or memory are used up.
    pub(super) fn skip(&mut self, error: Errno) -> io::Result<()> {
        match error {
            Errno::NOENT | Errno::SRCH => Ok(()),
            error if is_exhaustion(&error.into()) => Err(error.into()),
            _ => {
                self.unreadable += 1;
                Ok(())
            }
        }
    }
}
