//! Searches for sockets that no descriptor in `/proc/PID/fd` shows. There are four cases:
//!
//! - The first thread of the process has ended.
//! - Another thread of the process has descriptors of its own.
//! - An io_uring owns the socket.
//! - The socket is in flight: a process sent it over a Unix socket, and no process has received it
//!   yet.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;

use super::super::super::decode::procfs;
use super::super::super::{Inode, ScanDepth};
use super::super::proc_folder::{numbers, open};
use super::{Scan, ScanState};

impl Scan<'_> {
    /// Searches for the owners that the scan of `/proc/PID/fd` has not found.
    pub(super) fn scan_indirect(
        &self,
        pids: &[u32],
        uids: &[u32],
        lists_all: bool,
        state: &mut ScanState,
    ) -> io::Result<()> {
        for pid in std::mem::take(&mut state.empty) {
            if self.is_missing_some() {
                self.scan_threads(pid, state)?;
            }
        }
        for pid in std::mem::take(&mut state.denied) {
            let is_read = self.is_missing_some() && self.scan_threads(pid, state)?;
            state.unreadable += usize::from(!is_read);
        }
        for (pid, descriptor) in std::mem::take(&mut state.rings) {
            if self.is_missing_some() {
                self.scan_ring(pid, &descriptor, state)?;
            }
        }
        for &pid in pids {
            if !self.is_missing_some() {
                break;
            }
            // A read of the threads of every process would take too long. So this loop reads only
            // the processes of the users that own the sockets of this search.
            let is_likely = statat(self.proc, pid.to_string(), AtFlags::empty())
                .is_ok_and(|stat| uids.contains(&stat.st_uid));
            if is_likely {
                self.scan_further_threads(pid, state)?;
            }
        }
        // A process with descriptors in flight (sent, but not received yet) may be the owner. The
        // scan lists these processes only if `/proc` hides no process and more than half of the
        // processes are readable. Otherwise the owner is probably a process that the scan could not
        // read, and the list would mislead.
        let sees_most = lists_all && state.unreadable * 2 < pids.len();
        if self.is_missing_some() && sees_most && self.depth != ScanDepth::FirstHit {
            for &pid in pids {
                if has_in_flight(pid) {
                    state.in_flight.push(pid);
                }
            }
        }
        Ok(())
    }

    /// Reads the descriptors of a process through a thread other than the first. Returns `true` if
    /// that thread showed a descriptor.
    fn scan_threads(&self, pid: u32, state: &mut ScanState) -> io::Result<bool> {
        // The threads of a process usually share their descriptors, so one readable thread is
        // enough.
        for tid in self.further_threads(pid, state)? {
            if let Ok(folder) = open(self.proc, &format!("{pid}/task/{tid}/fd")) {
                return self.scan_descriptors(pid, &folder, "../../..", state);
            }
        }
        Ok(false)
    }

    /// Reads the descriptors of every thread except the first, which the scan has already read.
    /// After unshare(2) with CLONE_FILES a thread has descriptors of its own.
    fn scan_further_threads(&self, pid: u32, state: &mut ScanState) -> io::Result<()> {
        for tid in self.further_threads(pid, state)? {
            if let Ok(folder) = open(self.proc, &format!("{pid}/task/{tid}/fd")) {
                self.scan_descriptors(pid, &folder, "../../..", state)?;
            }
        }
        Ok(())
    }

    fn further_threads(&self, pid: u32, state: &mut ScanState) -> io::Result<Vec<u32>> {
        let task = format!("{pid}/task");
        // The folder `task` has two hard links, and one more per thread. With three links the first
        // thread is the only one.
        if statat(self.proc, &task, AtFlags::empty()).is_ok_and(|stat| stat.st_nlink <= 3) {
            return Ok(Vec::new());
        }
        match open(self.proc, &task).and_then(|task| numbers(task.as_fd())) {
            Ok(mut tids) => {
                tids.retain(|tid| *tid != pid);
                Ok(tids)
            }
            Err(error) => state.skip(error).map(|()| Vec::new()),
        }
    }

    fn scan_ring(&self, pid: u32, descriptor: &str, state: &mut ScanState) -> io::Result<()> {
        let folder = match open(self.proc, &format!("{pid}/fd")) {
            Ok(folder) => folder,
            Err(error) => return state.skip(error),
        };
        let text = match fs::read(format!("/proc/{pid}/fdinfo/{descriptor}")) {
            Ok(text) => text,
            Err(error) => return state.skip(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        };
        let inodes: Vec<Inode> = procfs::ring_inodes(&text)
            .filter(|inode| self.wanted.contains(inode))
            .collect();
        if !inodes.is_empty()
            && let Some(process) = self.clock.describe(pid, folder.as_fd(), "..")?
        {
            self.add_found(process, inodes, state);
        }
        Ok(())
    }
}

/// Whether a Unix socket of the process contains descriptors that the process has not received yet.
/// The kernel does not show which descriptors these are. The result is only a hint, so a failed
/// read counts as `false`.
fn has_in_flight(pid: u32) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| fs::read(entry.path()).is_ok_and(|text| procfs::in_flight(&text) > 0))
}
