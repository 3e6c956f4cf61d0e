//! NetBSD: the facts of a process, from sysctl kern.proc2.

use std::io;

use crate::ffi::netbsd as ffi;

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
    /// `true` if the process has called exec. `false` for a subshell, which was only forked.
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
        let found = ffi::processes(libc::KERN_PROC_ALL, 0)?;
        Ok(found.iter().map(ProcessStat::from).collect())
    }

    /// Returns `true` if `leader` leads the process group or the session of the process.
    pub(crate) fn is_led_by(&self, leader: u32) -> bool {
        [self.group, self.session].contains(&leader)
    }
}

/// The flag of a process that has called exec (from `sys/sysctl.h`). Missing from libc.
const P_EXEC: i32 = 0x4000;

impl From<&libc::kinfo_proc2> for ProcessStat {
    fn from(process: &libc::kinfo_proc2) -> ProcessStat {
        let name = process.p_comm.iter().map(|byte| byte.cast_unsigned());
        let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
        ProcessStat {
            pid: process.p_pid.cast_unsigned(),
            name: String::from_utf8_lossy(&name).into_owned(),
            parent: process.p_ppid.cast_unsigned(),
            group: process.p__pgid.cast_unsigned(),
            session: process.p_sid.cast_unsigned(),
            started: u64::from(process.p_ustart_sec) * 1_000_000 + u64::from(process.p_ustart_usec),
            has_called_exec: process.p_flag & P_EXEC != 0,
        }
    }
}
