//! Adds relatives of the owners that a search has found. A search that stops early usually finds
//! only one owner of each socket. The ancestors and descendants of that owner can own the socket
//! too.

use std::io;

use super::super::process::children;
use super::{Scan, ScanState};

impl Scan<'_> {
    /// Adds the parent of each found or added process if the parent owns one of the sockets. The
    /// search may have found only a worker, but a report must name the server that started the
    /// worker.
    pub(super) fn add_parents(&self, state: &mut ScanState) -> io::Result<()> {
        let mut next = 0;
        while let Some((process, _)) = state.found.get(next) {
            let parent = process
                .parent
                .filter(|pid| state.found.iter().all(|(known, _)| known.pid != *pid));
            if let Some(parent) = parent {
                // If the parent owns one of the sockets, `scan_process` adds the parent to `found`.
                // A later round then scans the grandparent.
                self.scan_process(parent, state)?;
            }
            next += 1;
        }
        Ok(())
    }

    /// Adds each child of a found or added process if the child owns one of the sockets, as the
    /// workers of a server do. Without the kernel option `PROC_CHILDREN` this function finds no
    /// children.
    pub(super) fn add_descendants(&self, state: &mut ScanState) -> io::Result<()> {
        let mut next = 0;
        while let Some((process, _)) = state.found.get(next) {
            for child in children(process.pid) {
                // If the child owns one of the sockets, `scan_process` adds the child to `found`.
                // A later round then scans the grandchildren.
                if state.found.iter().all(|(known, _)| known.pid != child) {
                    self.scan_process(child, state)?;
                }
            }
            next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::super::{ScanDepth, ScanResult, search};
    use crate::model::endpoint::Protocol;
    use crate::model::incompleteness::Incompleteness;
    use crate::retry::PROCESSES_OF_REPORT;
    use crate::sockets::{listening, tests::skip};

    fn pids(result: &ScanResult) -> Vec<u32> {
        let mut pids: Vec<u32> = result
            .found
            .iter()
            .map(|(process, _)| process.pid)
            .collect();
        pids.sort_unstable();
        pids
    }

    /// Six processes have the socket: a server, its three children, and two grandchildren.
    #[test]
    fn a_report_beside_many_processes_names_an_owner_and_its_relatives() {
        if !std::fs::exists("/proc/thread-self/children").unwrap() {
            return skip("relatives of an owner", "the kernel does not list children");
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // Each `cat` ends when the test closes the pipe. The shells end after their `cat`.
        let script = "exec 3<&0; (cat <&3 & cat <&3; exit) & cat <&3 & cat <&3; exit";
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped());
        let spawned = command.stdout(OwnedFd::from(listener)).spawn();
        // This drop closes the listener in this process.
        drop(command);
        let mut server = spawned.unwrap();
        let input = server.stdin.take();

        let rows = listening(port, Protocol::Tcp).unwrap();
        let wanted: Vec<_> = rows
            .iter()
            .map(|row| (row.inode.unwrap(), row.uid))
            .collect();
        let complete = || search(&wanted, ScanDepth::Complete, PROCESSES_OF_REPORT).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let cats = |result: &ScanResult| {
            let names = result.found.iter().map(|(process, _)| &process.name);
            names.filter(|name| *name == "cat").count()
        };
        let mut all = complete();
        while cats(&all) < 4 {
            assert!(Instant::now() < deadline, "{all:?}");
            all = complete();
        }
        let beside_few = search(&wanted, ScanDepth::Report, usize::MAX).unwrap();
        let beside_many = search(&wanted, ScanDepth::Report, 0).unwrap();
        drop(input);
        server.wait().unwrap();
        assert_eq!(pids(&beside_few), pids(&all));
        assert!(!beside_few.unseen.contains(&Incompleteness::NotSearched));
        assert_eq!(pids(&beside_many), pids(&all));
        assert_eq!(beside_many.unseen, [Incompleteness::NotSearched]);
    }
}
