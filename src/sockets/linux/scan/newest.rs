//! Lists the newest processes.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{SeekFrom, seek};

use super::super::proc_folder::{count_numbers, numbers, open};

/// The list of the newest processes starts this many pids below the latest pid.
const PIDS_BELOW_LATEST: u32 = 256;

/// In the folder `/proc`, the entry of a process is at the offset `OFFSET + pid`
/// (`proc_pid_readdir` in the kernel).
const OFFSET: u64 = 258;

/// The pids of the newest processes, the highest pid first. The function reads only the end of the
/// list in `/proc`, because the whole list takes 1 µs per process. After the pids have wrapped
/// around, the end of the list also contains old processes.
///
/// `/proc` lists processes in the order of their pids, and the offset of an entry follows from its
/// pid. So this function seeks to the offset of the lowest pid that it wants. A lower pid in the
/// rest of the list means that this kernel uses other offsets. The function then returns an empty
/// list.
pub(super) fn newest_processes(proc: &OwnedFd) -> Vec<u32> {
    latest_pid()
        .and_then(|latest| list_from(proc, latest.saturating_sub(PIDS_BELOW_LATEST).max(1)))
        .unwrap_or_default()
}

/// Whether `/proc` lists more processes than `limit`. The count ends when it exceeds `limit`,
/// because the whole list takes 1 µs per process. `false` if `/proc` cannot be read.
pub(super) fn has_more_processes(proc: &OwnedFd, limit: usize) -> bool {
    // A read would move the offset of `proc` itself, so the folder is opened again.
    open(proc, ".")
        .is_ok_and(|folder| count_numbers(folder.as_fd(), limit.saturating_add(1)) > limit)
}

fn latest_pid() -> Option<u32> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_ascii_whitespace().nth(4)?.parse().ok()
}

fn list_from(proc: &OwnedFd, first: u32) -> Option<Vec<u32>> {
    // A seek would move the offset of `proc` itself, so the folder is opened again.
    let folder = open(proc, ".").ok()?;
    seek(&folder, SeekFrom::Start(OFFSET + u64::from(first))).ok()?;
    numbers(folder.as_fd())
        .ok()
        .filter(|pids| pids.iter().all(|pid| *pid >= first))
}

#[cfg(test)]
mod tests {
    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn the_newest_processes_are_listed_without_the_others() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let found = newest_processes(&open(CWD, "/proc").unwrap());
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
