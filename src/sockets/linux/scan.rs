//! Which processes have a socket: a walk over the descriptors of every process, `/proc/PID/fd`.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, RawDir, SeekFrom, readlinkat_raw, seek, statat};
use rustix::io::Errno;

use super::super::decode::procfs;
use super::super::{Inode, ScanDepth, ScanResult};
use super::proc_folder::{numbers, open};
use super::process::Clock;
use crate::model::incompleteness::Incompleteness;
use crate::model::process::Process;

/// A second thread pays above this many processes (measured; below 200 it costs).
const CROWD: usize = 300;
const THREADS_MAX: usize = 4;
/// What is handed to a thread at once.
const BATCH: usize = 16;

pub(in super::super) fn processes(
    wanted: &[(Inode, Option<u32>)],
    depth: ScanDepth,
) -> io::Result<ScanResult> {
    let proc = match open(CWD, "/proc") {
        Ok(proc) => proc,
        Err(error) if super::out_of_descriptors(&error.into()) => return Err(error.into()),
        Err(_) => {
            return Ok(ScanResult {
                found: Vec::new(),
                unseen: vec![Incompleteness::Proc],
            });
        }
    };
    let inodes: HashSet<Inode> = wanted.iter().map(|(inode, _)| *inode).collect();
    let scan = Scan {
        proc: proc.as_fd(),
        missing: Mutex::new(inodes.clone()),
        wanted: inodes,
        enough: AtomicBool::new(false),
        depth,
        clock: Clock::now(proc.as_fd())?,
    };
    let mut seen = Seen::default();
    let uids: Vec<u32> = wanted.iter().filter_map(|(_, uid)| *uid).collect();
    let first_hit = depth == ScanDepth::FirstHit;
    let tried = if first_hit {
        scan.scan_recent(&proc, &uids, &mut seen)?
    } else {
        Vec::new()
    };
    let mut everybody = true;
    if !scan.enough() {
        let mut pids = numbers(proc.as_fd())?;
        if pids.is_empty() {
            return Ok(ScanResult {
                found: Vec::new(),
                unseen: vec![Incompleteness::Proc],
            });
        }
        let shows_all = pids.contains(&1);
        if first_hit {
            pids.retain(|pid| !tried.contains(pid));
            scan.likely(&mut pids, &uids, &mut seen)?;
        }
        if !scan.enough() {
            scan.each(&pids, &mut seen)?;
            scan.scan_indirect(&pids, shows_all, &mut seen)?;
            everybody = shows_all;
        }
    }
    if first_hit {
        scan.add_parents(&mut seen)?;
    }
    Ok(seen.into_search(everybody))
}

/// One search, shared by its threads.
struct Scan<'a> {
    proc: BorrowedFd<'a>,
    /// The sockets' inodes.
    wanted: HashSet<Inode>,
    /// Those without a process so far.
    missing: Mutex<HashSet<Inode>>,
    enough: AtomicBool,
    depth: ScanDepth,
    clock: Clock,
}

/// What one thread came across.
#[derive(Default)]
struct Seen {
    found: Vec<(Process, Vec<Inode>)>,
    /// Processes of which some descriptors could not be looked at.
    unreadable: usize,
    /// Processes that show no descriptor. If that is because their first thread has ended before the others, those
    /// can still show them.
    empty: Vec<u32>,
    /// Likewise, of those that may not be looked into: the folder of a thread that has ended is root's.
    closed: Vec<u32>,
    /// io_urings, which can keep sockets that are no descriptors: process and descriptor.
    rings: Vec<(u32, String)>,
    in_flight: Vec<u32>,
    buffer: Vec<u8>,
}

impl Seen {
    fn into_search(self, everybody: bool) -> ScanResult {
        let mut unseen = Vec::new();
        if self.unreadable > 0 || !everybody {
            unseen.push(Incompleteness::Processes);
        }
        unseen.extend(self.in_flight.into_iter().map(Incompleteness::InFlight));
        ScanResult {
            found: self.found,
            unseen,
        }
    }

    fn merge(&mut self, other: Seen) {
        self.found.extend(other.found);
        self.unreadable += other.unreadable;
        self.empty.extend(other.empty);
        self.closed.extend(other.closed);
        self.rings.extend(other.rings);
    }
}

impl Scan<'_> {
    /// This process before all, and before all are listed: mostly it is a test's own server that was forgotten. Then the
    /// newest, among which a port's holder mostly is. Returns those that were looked into.
    fn scan_recent(&self, proc: &OwnedFd, uids: &[u32], seen: &mut Seen) -> io::Result<Vec<u32>> {
        let own = std::process::id();
        let mut tried = vec![own];
        self.process(own, seen)?;
        if !self.enough() {
            let newest = newest(proc);
            let mut rest: Vec<u32> = newest.iter().copied().filter(|pid| *pid != own).collect();
            self.likely(&mut rest, uids, seen)?;
            tried.extend(newest.iter().filter(|pid| !rest.contains(pid)));
        }
        Ok(tried)
    }

    /// The processes of the sockets' own users first. Takes those that were looked into off the list.
    fn likely(&self, pids: &mut Vec<u32>, uids: &[u32], seen: &mut Seen) -> io::Result<()> {
        let mut tried = 0;
        let mut rest = Vec::with_capacity(pids.len());
        for &pid in pids.iter() {
            let likely = tried < CROWD
                && !self.enough()
                && statat(self.proc, pid.to_string(), AtFlags::empty())
                    .is_ok_and(|stat| uids.contains(&stat.st_uid));
            if likely {
                tried += 1;
                self.process(pid, seen)?;
            } else {
                rest.push(pid);
            }
        }
        *pids = rest;
        Ok(())
    }

    fn each(&self, pids: &[u32], seen: &mut Seen) -> io::Result<()> {
        let batches: Vec<&[u32]> = pids.chunks(BATCH).collect();
        let next = AtomicUsize::new(0);
        let work = |seen: &mut Seen| {
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                for &pid in *batch {
                    if self.enough() {
                        return Ok(());
                    }
                    self.process(pid, seen)?;
                }
            }
            Ok(())
        };
        let cores = if pids.len() > CROWD {
            thread::available_parallelism().map_or(1, usize::from)
        } else {
            1
        };
        thread::scope(|scope| {
            let start = || {
                let run = || {
                    let mut own = Seen::default();
                    work(&mut own).map(|()| own)
                };
                // Where no thread can be started, this one does the work alone.
                thread::Builder::new()
                    .name("portlease scan".to_owned())
                    .spawn_scoped(scope, run)
                    .ok()
            };
            let helpers: Vec<_> = (1..cores.min(THREADS_MAX))
                .filter_map(|_| start())
                .collect();
            let mut outcome = work(seen);
            for helper in helpers {
                match helper.join() {
                    Ok(Ok(other)) => seen.merge(other),
                    Ok(Err(error)) => outcome = Err(error),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            outcome
        })
    }

    /// The newest process is found first; of a server and its workers, the server is the one to name, and to stop.
    fn add_parents(&self, seen: &mut Seen) -> io::Result<()> {
        let mut at = 0;
        while let Some((process, _)) = seen.found.get(at) {
            let parent = process
                .parent
                .filter(|pid| seen.found.iter().all(|(known, _)| known.pid != *pid));
            if let Some(parent) = parent {
                // One that shares none of the sockets adds nothing, and the way up ends there.
                self.process(parent, seen)?;
            }
            at += 1;
        }
        Ok(())
    }

    fn enough(&self) -> bool {
        self.enough.load(Ordering::Relaxed)
    }

    fn process(&self, pid: u32, seen: &mut Seen) -> io::Result<()> {
        match open(self.proc, &format!("{pid}/fd")) {
            Ok(folder) => {
                if !self.descriptors(pid, &folder, "..", seen)? {
                    seen.empty.push(pid);
                }
                Ok(())
            }
            Err(Errno::ACCESS | Errno::PERM) => {
                seen.closed.push(pid);
                Ok(())
            }
            Err(error) => not_there(error, seen),
        }
    }

    /// Looks at each descriptor in a folder, and says whether there was one. `up` is the way from there to the folder of the process: by it, what is
    /// read is of this process even if its number has gone to another one since.
    fn descriptors(
        &self,
        pid: u32,
        folder: &OwnedFd,
        up: &str,
        seen: &mut Seen,
    ) -> io::Result<bool> {
        let mut buffer = std::mem::take(&mut seen.buffer);
        buffer.reserve(16 * 1024);
        let mut links: Vec<(Inode, CString)> = Vec::new();
        let mut any = false;
        let mut outcome = Ok(());
        let mut entries = RawDir::new(folder, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    outcome = not_there(error, seen);
                    break;
                }
            };
            if entry.file_name().to_bytes().starts_with(b".") {
                continue;
            }
            any = true;
            let mut link = [0; 64];
            let link = match readlinkat_raw(folder, entry.file_name(), &mut link) {
                Ok(length) => &link[..length],
                // Closed since it was listed.
                Err(Errno::NOENT) => continue,
                Err(error) => {
                    outcome = not_there(error, seen);
                    break;
                }
            };
            match procfs::socket_inode(link) {
                Some(inode) if self.wanted.contains(&inode) => {
                    links.push((inode, entry.file_name().to_owned()));
                }
                Some(_) => {}
                None if link == b"anon_inode:[io_uring]" => {
                    seen.rings
                        .push((pid, entry.file_name().to_string_lossy().into_owned()));
                }
                None => {}
            }
        }
        seen.buffer = buffer;
        outcome?;
        if links.is_empty() {
            return Ok(any);
        }
        // One that ended meanwhile has nothing any more.
        if let Some(process) = self.clock.describe(pid, folder.as_fd(), up)? {
            // It may have called exec, and closed them, since they were listed. To look at thousands again costs too much.
            if !process.forked && links.len() <= BATCH {
                links.retain(|(inode, name)| {
                    let mut link = [0; 64];
                    readlinkat_raw(folder, name, &mut link)
                        .is_ok_and(|length| procfs::socket_inode(&link[..length]) == Some(*inode))
                });
            }
            self.hit(
                process,
                links.into_iter().map(|(inode, _)| inode).collect(),
                seen,
            );
        }
        Ok(any)
    }

    fn hit(&self, process: Process, inodes: Vec<Inode>, seen: &mut Seen) {
        if inodes.is_empty() {
            return;
        }
        let mut missing = self.missing.lock();
        for inode in &inodes {
            missing.remove(inode);
        }
        if missing.is_empty() && self.depth == ScanDepth::FirstHit {
            self.enough.store(true, Ordering::Relaxed);
        }
        seen.found.push((process, inodes));
    }

    /// Where sockets are that no process's own descriptors show. Looked at only for what is still missing.
    fn scan_indirect(&self, pids: &[u32], everybody: bool, seen: &mut Seen) -> io::Result<()> {
        let is_missing = || !self.missing.lock().is_empty();
        for pid in std::mem::take(&mut seen.empty) {
            if is_missing() {
                self.threads(pid, seen)?;
            }
        }
        for pid in std::mem::take(&mut seen.closed) {
            let is_read = is_missing() && self.threads(pid, seen)?;
            seen.unreadable += usize::from(!is_read);
        }
        for (pid, descriptor) in std::mem::take(&mut seen.rings) {
            if is_missing() {
                self.ring(pid, &descriptor, seen)?;
            }
        }
        // Where most processes could not be looked into, they are the likelier answer.
        let sees_most = everybody && seen.unreadable * 2 < pids.len();
        if is_missing() && sees_most && self.depth == ScanDepth::Complete {
            for &pid in pids {
                if self.has_in_flight(pid) {
                    seen.in_flight.push(pid);
                }
            }
        }
        Ok(())
    }

    /// Looks at the descriptors by way of a thread that lives, and says whether there was one that shows them.
    fn threads(&self, pid: u32, seen: &mut Seen) -> io::Result<bool> {
        let task = format!("{pid}/task");
        // The links count the threads, on top of the two that each folder has: the first one alone is no news.
        if statat(self.proc, &task, AtFlags::empty()).is_ok_and(|stat| stat.st_nlink <= 3) {
            return Ok(false);
        }
        let tids = match open(self.proc, &task).and_then(|task| numbers(task.as_fd())) {
            Ok(tids) => tids,
            Err(error) => return not_there(error, seen).map(|()| false),
        };
        for tid in tids.into_iter().filter(|tid| *tid != pid) {
            // Threads share their descriptors: the first that can be read tells for all.
            if let Ok(folder) = open(self.proc, &format!("{task}/{tid}/fd")) {
                return self.descriptors(pid, &folder, "../../..", seen);
            }
        }
        Ok(false)
    }

    fn ring(&self, pid: u32, descriptor: &str, seen: &mut Seen) -> io::Result<()> {
        let folder = match open(self.proc, &format!("{pid}/fd")) {
            Ok(folder) => folder,
            Err(error) => return not_there(error, seen),
        };
        let text = match fs::read(format!("/proc/{pid}/fdinfo/{descriptor}")) {
            Ok(text) => text,
            Err(error) => {
                return not_there(Errno::from_io_error(&error).unwrap_or(Errno::IO), seen);
            }
        };
        let inodes: Vec<Inode> = procfs::ring_inodes(&text)
            .filter(|inode| self.wanted.contains(inode))
            .collect();
        if !inodes.is_empty()
            && let Some(process) = self.clock.describe(pid, folder.as_fd(), "..")?
        {
            self.hit(process, inodes, seen);
        }
        Ok(())
    }

    /// Whether descriptors wait in one of the process's Unix sockets. Which ones they are, nothing tells: a hint, so
    /// what cannot be read is no failure.
    fn has_in_flight(&self, pid: u32) -> bool {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
            return false;
        };
        entries
            .flatten()
            .any(|entry| fs::read(entry.path()).is_ok_and(|text| procfs::in_flight(&text) > 0))
    }
}

/// What has ended has nothing to show; what may not be looked into is remembered; a lack of descriptors fails.
fn not_there(error: Errno, seen: &mut Seen) -> io::Result<()> {
    match error {
        Errno::NOENT | Errno::SRCH => Ok(()),
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => Err(error.into()),
        _ => {
            seen.unreadable += 1;
            Ok(())
        }
    }
}

/// The newest processes, the newest first, without listing them all, which takes a microsecond each.
///
/// `/proc` is listed in the order of the numbers, and a place in the list tells the number (`proc_pid_readdir`). Where
/// that is not so, nothing is found here, and the whole list tells.
fn newest(proc: &OwnedFd) -> Vec<u32> {
    const MANY: u32 = 256;
    /// The place of a process in the list, less its number.
    const PLACE: u64 = 258;
    let latest = || {
        let text = fs::read_to_string("/proc/loadavg").ok()?;
        text.split_ascii_whitespace().nth(4)?.parse::<u32>().ok()
    };
    let look = |latest: u32| {
        let folder = open(proc, ".").ok()?;
        let from = latest.saturating_sub(MANY).max(1);
        seek(&folder, SeekFrom::Start(PLACE + u64::from(from))).ok()?;
        numbers(folder.as_fd())
            .ok()
            .filter(|pids| pids.iter().all(|pid| *pid >= from))
    };
    latest().and_then(look).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_processes_are_listed_without_the_others() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let found = newest(&open(CWD, "/proc").unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            found.contains(&child.id()),
            "{} is not in {found:?}",
            child.id()
        );
        assert!(found.is_sorted_by(|a, b| a > b), "{found:?}");
    }
}
