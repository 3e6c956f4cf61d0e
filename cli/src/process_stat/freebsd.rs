//! FreeBSD: the facts of a process, from sysctl kern.proc.

use std::io;

use crate::ffi::freebsd as ffi;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    pub(crate) pid: u32,
    /// The name of the program, truncated by the kernel.
    pub(crate) name: String,
    /// The pid of the parent process.
    pub(crate) parent: u32,
    group: u32,
    session: u32,
    /// The time of the start in microseconds since 1970.
    pub(crate) started: u64,
    /// Whether the process has called exec. A subshell has not.
    pub(crate) has_called_exec: bool,
}

impl ProcessStat {
    /// `None` if the process does not exist or cannot be seen.
    pub(crate) fn of(pid: u32) -> Option<ProcessStat> {
        let found = ffi::processes(libc::KERN_PROC_PID, pid.cast_signed()).ok()?;
        found.first().map(ProcessStat::from)
    }

    /// Every process that this user can see.
    pub(crate) fn all() -> io::Result<Vec<ProcessStat>> {
        let found = ffi::processes(libc::KERN_PROC_PROC, 0)?;
        Ok(found.iter().map(ProcessStat::from).collect())
    }

    /// Returns `true` if `leader` leads the process group or the session of the process.
    pub(crate) fn is_led_by(&self, leader: u32) -> bool {
        [self.group, self.session].contains(&leader)
    }
}

impl From<&libc::kinfo_proc> for ProcessStat {
    fn from(process: &libc::kinfo_proc) -> ProcessStat {
        let started = &process.ki_start;
        let name = process.ki_comm.iter().map(|byte| byte.cast_unsigned());
        let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
        ProcessStat {
            pid: process.ki_pid.cast_unsigned(),
            name: String::from_utf8_lossy(&name).into_owned(),
            parent: process.ki_ppid.cast_unsigned(),
            group: process.ki_pgid.cast_unsigned(),
            session: process.ki_sid.cast_unsigned(),
            started: (started.tv_sec * 1_000_000 + started.tv_usec).cast_unsigned(),
            has_called_exec: process.ki_flag & libc::c_long::from(libc::P_EXEC) != 0,
        }
    }
}
