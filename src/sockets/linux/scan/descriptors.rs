//! Scans the descriptors of one process.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, RawDir, readlinkat_raw, statat};
use rustix::io::Errno;

use super::super::super::Inode;
use super::super::super::decode::procfs;
use super::super::proc_folder::open;
use super::{Scan, ScanState};
use crate::model::process::ProcessState;

/// If a process has at most this many descriptors of wanted sockets, the scan reads each of them a
/// second time: an exec or the end of the process may have closed a descriptor after the first
/// read. A second read of thousands of descriptors costs too much.
const CONFIRM_UP_TO: usize = 16;

impl Scan<'_> {
    pub(super) fn scan_process(&self, pid: u32, state: &mut ScanState) -> io::Result<()> {
        let path = format!("{pid}/fd");
        let has_size_0 = || {
            let stat = statat(self.proc, &path, AtFlags::empty());
            stat.is_ok_and(|stat| stat.st_size == 0)
        };
        // With `has_counts`, a folder of size 0 is empty, and the scan does not open it. The scan
        // checks the size only if the last process had no descriptors. Such a process is usually a
        // kernel thread, and most kernel threads are neighbors in `/proc`.
        let follows_empty = std::mem::replace(&mut state.last_was_empty, false);
        if self.has_counts && follows_empty && has_size_0() {
            state.add_empty(pid);
            return Ok(());
        }
        match open(self.proc, &path) {
            Ok(folder) => {
                if !self.scan_descriptors(pid, &folder, "..", state)? {
                    state.add_empty(pid);
                }
                Ok(())
            }
            Err(Errno::ACCESS | Errno::PERM) => {
                state.denied.push(pid);
                Ok(())
            }
            Err(error) => state.skip(error),
        }
    }

    /// Reads the descriptors in a folder such as `/proc/PID/fd`. Returns `true` if the folder
    /// contained any.
    ///
    /// `process_path` is the path from `folder` to `/proc/PID`. All reads start at the open folder,
    /// so they are about this process even if another process gets the pid.
    pub(super) fn scan_descriptors(
        &self,
        pid: u32,
        folder: &OwnedFd,
        process_path: &str,
        state: &mut ScanState,
    ) -> io::Result<bool> {
        let mut buffer = std::mem::take(&mut state.buffer);
        buffer.reserve(16 * 1024);
        let mut sockets: Vec<(Inode, CString)> = Vec::new();
        let mut has_descriptors = false;
        let mut outcome = Ok(());
        let mut entries = RawDir::new(folder, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    outcome = state.skip(error);
                    break;
                }
            };
            if entry.file_name().to_bytes().starts_with(b".") {
                continue;
            }
            has_descriptors = true;
            state.descriptors += 1;
            let mut link = [0; 64];
            let link = match readlinkat_raw(folder, entry.file_name(), &mut link) {
                Ok(length) => &link[..length],
                // The descriptor was closed after the folder was listed.
                Err(Errno::NOENT) => continue,
                Err(error) => {
                    outcome = state.skip(error);
                    break;
                }
            };
            match procfs::socket_inode(link) {
                Some(inode) if self.wanted.contains(&inode) => {
                    sockets.push((inode, entry.file_name().to_owned()));
                }
                None if link == b"anon_inode:[io_uring]" => {
                    let descriptor = entry.file_name().to_string_lossy().into_owned();
                    state.rings.push((pid, descriptor));
                }
                Some(_) | None => {}
            }
        }
        state.buffer = buffer;
        outcome?;
        if sockets.is_empty() {
            return Ok(has_descriptors);
        }
        // `describe` returns `None` if the process was reaped. The process then owns no socket.
        if let Some(process) = self.clock.describe(pid, folder.as_fd(), process_path)? {
            // After the folder was listed, an exec or the end of the process may have closed some
            // of the descriptors. So the scan reads them again. It skips this for a `forked`
            // process that still runs. That process may be in an exec. But the public call treats
            // the process as a forked child, and its retry repeats the scan.
            let may_have_closed = !process.forked || process.state == ProcessState::Zombie;
            if may_have_closed && sockets.len() <= CONFIRM_UP_TO {
                sockets.retain(|(inode, name)| is_socket(folder, name, *inode));
            }
            let inodes = sockets.into_iter().map(|(inode, _)| inode).collect();
            self.add_found(process, inodes, state);
        }
        Ok(has_descriptors)
    }
}

fn is_socket(folder: &OwnedFd, name: &CStr, inode: Inode) -> bool {
    let mut link = [0; 64];
    readlinkat_raw(folder, name, &mut link)
        .is_ok_and(|length| procfs::socket_inode(&link[..length]) == Some(inode))
}
