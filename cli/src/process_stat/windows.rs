//! Windows: the facts of a process, from a snapshot of all processes and from the process itself.

use std::io;

use crate::ffi::windows as ffi;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    pub(crate) pid: u32,
    /// The name of the program, such as `cmd.exe`.
    pub(crate) name: String,
    /// The pid of the parent process. 0 if the parent has ended and its pid now belongs to a
    /// process that started later than this process.
    pub(crate) parent: u32,
    /// The time of the start in units of 100 ns since 1601. 0 if it cannot be read.
    pub(crate) started: u64,
}

impl ProcessStat {
    /// `None` if the process does not exist or cannot be seen.
    pub(crate) fn of(pid: u32) -> Option<ProcessStat> {
        let mut all = ffi::processes().ok()?.into_iter();
        all.find(|process| process.pid == pid)
            .map(ProcessStat::from)
    }

    pub(crate) fn all() -> io::Result<Vec<ProcessStat>> {
        Ok(ffi::processes()?
            .into_iter()
            .map(ProcessStat::from)
            .collect())
    }

    /// Always `false`: Windows has no process groups or sessions that a process leads.
    pub(crate) fn is_led_by(&self, _leader: u32) -> bool {
        false
    }
}

impl From<ffi::Listed> for ProcessStat {
    fn from(listed: ffi::Listed) -> ProcessStat {
        let started = ffi::created(listed.pid);
        let is_parent = match (ffi::created(listed.parent), started) {
            (Some(parent), Some(started)) => parent <= started,
            // If a start time cannot be read, the listed parent counts as the parent.
            _ => true,
        };
        ProcessStat {
            pid: listed.pid,
            name: listed.name,
            parent: if is_parent { listed.parent } else { 0 },
            started: started.unwrap_or(0),
        }
    }
}
