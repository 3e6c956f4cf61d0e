//! The watcher: a small process beside the command of `run`, in the same process group.
//!
//! It blocks every signal. So a signal to the whole process group stays pending in the watcher, and
//! shows `run` that its command got the signal too. If `run` is killed, the watcher ends the
//! command.
//!
//! `run` writes lines to its stdin. A pid names the process to end. An empty line asks the watcher
//! to discard the pending signals, which it confirms with an empty line.

use std::io::{self, BufRead, Write};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::exit;
use crate::failure::Failure;
use crate::ffi;
use crate::limits::WATCHER_TIMEOUT;
use crate::process::ProcessHandle;
use crate::process_tree::end_tree;
use crate::signals::spawn_with_blocked_signals;

/// The single argument with which `run` starts this program as a watcher.
pub(crate) const WATCHER_ARG: &str = "watcher";

/// The watcher of this process, as `run` sees it.
#[derive(Debug)]
pub(crate) struct Watcher(Child);

impl Watcher {
    pub(crate) fn start() -> io::Result<Watcher> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(WATCHER_ARG)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        spawn_with_blocked_signals(&mut command).map(Watcher)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Makes the watcher end the process `pid`, and what that process started, if this process
    /// ends first.
    pub(crate) fn guard(&mut self, pid: u32) -> io::Result<()> {
        self.send(&format!("{pid}\n"))
    }

    /// Whether the watcher got the signal since the last [`Watcher::discard_pending`].
    pub(crate) fn got(&self, signal: i32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.unwrap_or_default();
        ["SigPnd:", "ShdPnd:"].iter().any(|field| {
            let mask = status.lines().find_map(|line| line.strip_prefix(field));
            let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
            mask.unwrap_or(0) & (1 << (signal - 1)) != 0
        })
    }

    pub(crate) fn discard_pending(&mut self) -> io::Result<()> {
        self.send("\n")?;
        let Some(answers) = &mut self.0.stdout else {
            return Ok(());
        };
        let timeout = Timespec::try_from(WATCHER_TIMEOUT).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(answers, PollFlags::IN)], Some(&timeout))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        io::Read::read_exact(answers, &mut [0])
    }

    fn send(&mut self, line: &str) -> io::Result<()> {
        match &mut self.0.stdin {
            Some(stdin) => stdin.write_all(line.as_bytes()),
            None => Ok(()),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Both fail only if the watcher has been killed and reaped already.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The main program of the watcher.
pub(crate) fn run_watcher() -> Result<u8, Failure> {
    let cannot = |e: io::Error| Failure::system("run as a watcher", &e);
    ffi::close_inherited_descriptors();
    // The file system of a working directory cannot be unmounted.
    std::env::set_current_dir("/").map_err(cannot)?;
    let pending = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_NONBLOCK);
    let pending = pending.map_err(|e| cannot(e.into()))?;
    let mut guarded = None;
    for line in io::stdin().lock().lines() {
        match line.map_err(cannot)?.parse::<u32>() {
            Ok(pid) => guarded = ProcessHandle::open(pid).map_err(cannot)?.map(|p| (pid, p)),
            Err(_) => {
                while matches!(pending.read_signal(), Ok(Some(_))) {}
                writeln!(io::stdout()).map_err(cannot)?;
            }
        }
    }
    if let Some((pid, process)) = guarded
        && !process.has_ended().map_err(cannot)?
    {
        end_tree(pid).map_err(cannot)?;
    }
    Ok(exit::YES)
}
