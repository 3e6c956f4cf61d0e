//! macOS: the facts of a process, from libproc.

use std::io;

use crate::ffi::macos as ffi;

/// Set if the process has called exec (`PROC_FLAG_EXEC` of `sys/proc_info.h`). Missing from libc.
const PROC_FLAG_EXEC: u32 = 0x4000;

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
    /// `false` for a subshell, which was forked without exec.
    pub(crate) has_called_exec: bool,
}

impl ProcessStat {
    /// `None` if the process does not exist, is a zombie, or cannot be seen.
    pub(crate) fn of(pid: u32) -> Option<ProcessStat> {
        let process = ffi::process(pid)?;
        let name = process.pbi_comm.iter().map(|byte| byte.cast_unsigned());
        let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
        let session = nix::unistd::Pid::from_raw(pid.cast_signed());
        let session = nix::unistd::getsid(Some(session)).map_or(0, nix::unistd::Pid::as_raw);
        Some(ProcessStat {
            pid: process.pbi_pid,
            name: String::from_utf8_lossy(&name).into_owned(),
            parent: process.pbi_ppid,
            group: process.pbi_pgid,
            session: session.cast_unsigned(),
            started: process.pbi_start_tvsec * 1_000_000 + process.pbi_start_tvusec,
            has_called_exec: process.pbi_flags & PROC_FLAG_EXEC != 0,
        })
    }

    /// Every process that this user can see, except zombies.
    pub(crate) fn all() -> io::Result<Vec<ProcessStat>> {
        Ok(ffi::pids()?
            .into_iter()
            .filter_map(ProcessStat::of)
            .collect())
    }

    /// Returns `true` if `leader` leads the process group or the session of the process.
    pub(crate) fn is_led_by(&self, leader: u32) -> bool {
        [self.group, self.session].contains(&leader)
    }
}
