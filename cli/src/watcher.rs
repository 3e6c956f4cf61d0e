//! The watcher: a small process beside the command of `run`, in the same process group.
//!
//! The watcher blocks every signal, so a signal to the whole process group stays pending in it.
//! From the pending signal, `run` concludes that its command got the signal too. If `run` is
//! killed, the watcher ends the command and the processes that the command started.
//!
//! The watcher's stdin is a socket to `run`. Each message of `run` is a number of four bytes: the
//! pid of the command, or [`DISCARD`]. After [`DISCARD`], the watcher discards its pending signals,
//! and confirms this with one byte.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::exit;
use crate::failure::Failure;
use crate::ffi;
use crate::limits::WATCHER_TIMEOUT;
use crate::process::ProcessHandle;
use crate::process_tree::end_tree;
use crate::signals::spawn_with_blocked_signals;

/// The single argument with which `run` starts this program as a watcher.
pub(crate) const WATCHER_ARG: &str = "watcher";

/// The request to discard the pending signals. No process has this id.
const DISCARD: u32 = 0;

/// The watcher of this process, as `run` sees it.
#[derive(Debug)]
pub(crate) struct Watcher {
    process: Child,
    socket: UnixStream,
}

impl Watcher {
    pub(crate) fn start() -> io::Result<Watcher> {
        let (socket, watchers_socket) = UnixStream::pair()?;
        socket.set_read_timeout(Some(WATCHER_TIMEOUT))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(WATCHER_ARG)
            .stdin(OwnedFd::from(watchers_socket))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = spawn_with_blocked_signals(&mut command)?;
        Ok(Watcher { process, socket })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Makes the watcher end the command and the processes that it started, if this process ends
    /// first. The forked child sends its pid to the watcher before it calls exec. So the command
    /// never runs without a watcher that knows it.
    pub(crate) fn guard(&self, command: &mut Command) -> io::Result<()> {
        ffi::send_pid_from_child(command, self.socket.try_clone()?);
        Ok(())
    }

    /// Whether the watcher got the signal since the last [`Watcher::discard_pending`]. Returns
    /// `false` if /proc cannot be read.
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
        self.socket.write_all(&DISCARD.to_ne_bytes())?;
        self.socket.read_exact(&mut [0])
    }

    /// Drops a watcher that was reaped, without killing it. Another process may have its pid by
    /// now.
    pub(crate) fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Both calls fail if the watcher has ended.
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The main program of the watcher.
pub(crate) fn run_watcher() -> Result<u8, Failure> {
    let cannot = |e: io::Error| Failure::system("run as a watcher", &e);
    ffi::close_inherited_descriptors();
    // The file system of a working directory cannot be unmounted, so the watcher moves to `/`.
    std::env::set_current_dir("/").map_err(cannot)?;
    let pending = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_NONBLOCK);
    let pending = pending.map_err(|e| cannot(e.into()))?;
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?;
    let mut socket = UnixStream::from(socket);
    let mut guarded = None;
    let mut number = [0; 4];
    // The read fails once `run` has ended, because its end of the socket is then closed.
    while socket.read_exact(&mut number).is_ok() {
        match u32::from_ne_bytes(number) {
            DISCARD => {
                while matches!(pending.read_signal(), Ok(Some(_))) {}
                // If `run` has ended, this write fails, and so does the next read.
                let _confirmed = socket.write_all(&[0]);
            }
            pid => guarded = ProcessHandle::open(pid).map_err(cannot)?.map(|p| (pid, p)),
        }
    }
    if let Some((pid, process)) = guarded
        && !process.has_ended().map_err(cannot)?
    {
        end_tree(pid).map_err(cannot)?;
    }
    Ok(exit::YES)
}
