//! [`ScanState`]: what one thread of a scan has found.

use std::io;

use rustix::io::Errno;

use super::super::super::{Inode, ScanResult};
use super::super::is_exhaustion;
use crate::model::incompleteness::Incompleteness;
use crate::model::process::Process;

#[derive(Default)]
pub(super) struct ScanState {
    pub(super) found: Vec<(Process, Vec<Inode>)>,
    /// The number of descriptors that this thread has read.
    pub(super) descriptors: usize,
    /// How often descriptors of a process could not be read. A process can count more than once.
    pub(super) unreadable: usize,
    /// Processes that show no descriptor. If the first thread of such a process has ended, its
    /// other threads can still show the descriptors.
    pub(super) empty: Vec<u32>,
    /// Whether the last scanned process is in `empty`.
    pub(super) last_was_empty: bool,
    /// Processes whose descriptors this user may not read. If the first thread of a process has
    /// ended, root owns the folder of that thread, but the folders of the other threads may still
    /// be readable.
    pub(super) denied: Vec<u32>,
    /// The pid and the descriptor of each io_uring that the scan found. An io_uring can own sockets
    /// that have no descriptor of their own.
    pub(super) rings: Vec<(u32, String)>,
    /// Whether a search of the depth `ScanDepth::Report` may have ended before it reached every
    /// process. `false` for any other depth.
    pub(super) stopped_early: bool,
    /// Processes that have not yet received descriptors that were sent to their Unix sockets.
    pub(super) in_flight: Vec<u32>,
    pub(super) buffer: Vec<u8>,
}

impl ScanState {
    pub(super) fn into_result(self, lists_all: bool) -> ScanResult {
        let mut unseen = Vec::new();
        if self.unreadable > 0 || !lists_all {
            unseen.push(Incompleteness::Processes);
        }
        if self.stopped_early {
            unseen.push(Incompleteness::NotSearched);
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

    pub(super) fn add_empty(&mut self, pid: u32) {
        self.empty.push(pid);
        self.last_was_empty = true;
    }

    /// Handles an error of a read in `/proc`. If the process has exited, the error is ignored.
    /// Other errors increase `unreadable`.
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
