//! Finds the processes that own sockets, by the descriptors that `/proc/PID/fd` shows.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, statat};

use super::super::{Inode, ScanDepth, ScanResult, shows_every_process};
use super::proc_folder::{numbers, open};
use super::process::Clock;
use crate::model::incompleteness::Incompleteness;
use crate::model::process::Process;
use crate::proc_fs;
use crate::retry::PROCESSES_OF_REPORT;

mod descriptors;
mod indirect;
mod newest;
mod relatives;
mod state;

use newest::{has_more_processes, newest_processes};
use state::ScanState;

/// A scan of more processes than this uses several threads. Measured: above 300 processes a second
/// thread saves time, below 200 it costs time.
const PARALLEL_ABOVE: usize = 300;
/// A scan that has read more descriptors than this uses several threads for the processes that are
/// left. The read of a descriptor takes 1 µs, and the start of a thread up to 100 µs.
const PARALLEL_AFTER_DESCRIPTORS: usize = 500;
const MAX_THREADS: usize = 4;
/// The pid of the owner that a search found last, or 0. The next search with [`Scan::first_hit`]
/// tries this pid early, because a check that retries searches for the same owner again.
static LAST_FOUND: AtomicU32 = AtomicU32::new(0);

pub(in super::super) fn processes(
    wanted: &[(Inode, Option<u32>)],
    depth: ScanDepth,
) -> io::Result<ScanResult> {
    search(wanted, depth, PROCESSES_OF_REPORT)
}

/// If more than `limit` processes run, a search of the depth [`ScanDepth::Report`] may stop before
/// it has read every process.
fn search(
    wanted: &[(Inode, Option<u32>)],
    depth: ScanDepth,
    limit: usize,
) -> io::Result<ScanResult> {
    let without_processes = |reason| ScanResult {
        found: Vec::new(),
        unseen: vec![reason],
    };
    if !proc_fs::shows_own_processes() {
        // Every mounted `/proc` has this link, even if the link leads nowhere.
        let is_mounted = fs::symlink_metadata("/proc/self").is_ok();
        return Ok(without_processes(match is_mounted {
            true => Incompleteness::ForeignProc,
            false => Incompleteness::Proc,
        }));
    }
    let proc = match open(CWD, "/proc") {
        Ok(proc) => proc,
        Err(error) if super::is_exhaustion(&error.into()) => return Err(error.into()),
        Err(_) => return Ok(without_processes(Incompleteness::Proc)),
    };
    let inodes: HashSet<Inode> = wanted.iter().map(|(inode, _)| *inode).collect();
    let uids: Vec<u32> = wanted.iter().filter_map(|(_, uid)| *uid).collect();
    let is_bounded = depth == ScanDepth::Report && has_more_processes(&proc, limit);
    let first_hit = depth == ScanDepth::FirstHit || is_bounded;
    let scan = Scan {
        proc: proc.as_fd(),
        missing: Mutex::new(inodes.clone()),
        wanted: inodes,
        is_done: AtomicBool::new(false),
        first_hit,
        depth,
        has_counts: has_counts(&proc),
        clock: Clock::now(proc.as_fd())?,
    };
    let mut state = ScanState::default();
    let scanned = if first_hit {
        scan.scan_recent(&proc, &uids, &mut state)?
    } else {
        Vec::new()
    };
    let mut lists_all = true;
    if !scan.is_done() {
        let pids = numbers(proc.as_fd())?;
        // With the mount option `hidepid=2`, `/proc` does not list the processes of other users.
        // Pid 1 is then usually missing, so without pid 1 the list counts as incomplete.
        let lists_init = pids.contains(&1);
        let mut rest = pids.clone();
        if first_hit {
            rest.retain(|pid| !scanned.contains(pid));
            scan.scan_users(&mut rest, &uids, &mut state)?;
        }
        if !scan.is_done() {
            scan.scan_all(&rest, &mut state)?;
            scan.scan_indirect(&pids, &uids, lists_init, &mut state)?;
            lists_all = lists_init;
        }
    }
    if first_hit {
        scan.add_parents(&mut state)?;
    }
    if is_bounded {
        scan.add_descendants(&mut state)?;
        state.stopped_early = scan.is_done();
    }
    Ok(state.into_result(lists_all))
}

/// One search. The threads that run it share this value.
struct Scan<'a> {
    proc: BorrowedFd<'a>,
    /// The sockets whose processes are searched for.
    wanted: HashSet<Inode>,
    /// The wanted sockets for which no process has been found yet.
    missing: Mutex<HashSet<Inode>>,
    /// `true` once every socket has a process. The search then ends. Always `false` without
    /// `first_hit`.
    is_done: AtomicBool,
    /// Whether the search ends when every socket has a process.
    first_hit: bool,
    depth: ScanDepth,
    /// Whether the scan can skip a folder `/proc/PID/fd` of size 0: the result of [`has_counts`].
    has_counts: bool,
    clock: Clock,
}

/// Whether the scan can skip a kernel thread by the size of its folder `/proc/PID/fd`. Since Linux
/// 6.2 the size is the number of descriptors (`proc_readfd_count` in the kernel). A read of the
/// size takes 1 µs. To open, list and close an empty folder takes 5 µs.
///
/// `false` outside of the first pid namespace, because no other pid namespace has kernel threads to
/// skip. Also `false` if this process may not read the descriptors of pid 1. Kernel threads are
/// then unreadable too, and the scan must open their folders to count them as unreadable.
fn has_counts(proc: &OwnedFd) -> bool {
    proc_fs::is_release_at_least(6, 2) && shows_every_process() && open(proc, "1/fd").is_ok()
}

impl Scan<'_> {
    /// Scans the processes that most often own a port, and returns the pids that it scanned.
    ///
    /// This process comes first, because the usual owner is a server that the test itself left
    /// running. If this process owns all the sockets, `/proc` need not be listed. The process that
    /// the last search found comes next, and then the newest processes.
    fn scan_recent(
        &self,
        proc: &OwnedFd,
        uids: &[u32],
        state: &mut ScanState,
    ) -> io::Result<Vec<u32>> {
        let mut scanned = Vec::new();
        for pid in [std::process::id(), LAST_FOUND.load(Ordering::Relaxed)] {
            if pid != 0 && !scanned.contains(&pid) && !self.is_done() {
                self.scan_process(pid, state)?;
                scanned.push(pid);
            }
        }
        if !self.is_done() {
            let newest = newest_processes(proc);
            let is_new = |pid: &u32| !scanned.contains(pid);
            let mut rest: Vec<u32> = newest.iter().copied().filter(is_new).collect();
            self.scan_users(&mut rest, uids, state)?;
            scanned.extend(newest.iter().filter(|pid| !rest.contains(pid)));
        }
        Ok(scanned)
    }

    /// Scans processes of the users that own the sockets, and removes the scanned pids from the
    /// list. Scans at most [`PARALLEL_ABOVE`] processes, and stops when the search is done.
    fn scan_users(
        &self,
        pids: &mut Vec<u32>,
        uids: &[u32],
        state: &mut ScanState,
    ) -> io::Result<()> {
        let mut scanned = 0;
        let mut rest = Vec::with_capacity(pids.len());
        for &pid in pids.iter() {
            // This loop uses one thread. For more than `PARALLEL_ABOVE` processes, `scan_all` is
            // faster, because it uses several threads.
            let is_likely = scanned < PARALLEL_ABOVE
                && !self.is_done()
                && statat(self.proc, pid.to_string(), AtFlags::empty())
                    .is_ok_and(|stat| uids.contains(&stat.st_uid));
            if is_likely {
                scanned += 1;
                self.scan_process(pid, state)?;
            } else {
                rest.push(pid);
            }
        }
        *pids = rest;
        Ok(())
    }

    fn scan_all(&self, pids: &[u32], state: &mut ScanState) -> io::Result<()> {
        let next = AtomicUsize::new(0);
        let take = || {
            let pid = pids.get(next.fetch_add(1, Ordering::Relaxed));
            pid.filter(|_| !self.is_done())
        };
        let work = || -> io::Result<ScanState> {
            let mut own = ScanState::default();
            while let Some(pid) = take() {
                self.scan_process(*pid, &mut own)?;
            }
            Ok(own)
        };
        thread::scope(|scope| {
            let mut helpers = None;
            while let Some(pid) = take() {
                let is_long =
                    pids.len() > PARALLEL_ABOVE || state.descriptors > PARALLEL_AFTER_DESCRIPTORS;
                if is_long && helpers.is_none() {
                    let threads = thread::available_parallelism().map_or(1, usize::from);
                    let start = || {
                        let builder = thread::Builder::new().name("portlease scan".to_owned());
                        // If no thread can be started, the calling thread scans every process.
                        builder.spawn_scoped(scope, work).ok()
                    };
                    let others = 1..threads.min(MAX_THREADS);
                    helpers = Some(others.filter_map(|_| start()).collect::<Vec<_>>());
                }
                self.scan_process(*pid, state)?;
            }
            for helper in helpers.into_iter().flatten() {
                match helper.join() {
                    Ok(other) => state.merge(other?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(())
        })
    }

    fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Relaxed)
    }

    fn is_missing_some(&self) -> bool {
        !self.missing.lock().is_empty()
    }

    fn add_found(&self, process: Process, inodes: Vec<Inode>, state: &mut ScanState) {
        if inodes.is_empty() {
            return;
        }
        let mut missing = self.missing.lock();
        for inode in &inodes {
            missing.remove(inode);
        }
        if missing.is_empty() && self.first_hit {
            self.is_done.store(true, Ordering::Relaxed);
        }
        LAST_FOUND.store(process.pid, Ordering::Relaxed);
        state.found.push((process, inodes));
    }
}
