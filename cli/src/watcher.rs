//! Unix: the watcher, a small process beside the command of `run`, in the same process group.
//!
//! The watcher blocks every signal, so a signal to the whole process group stays pending in it.
//! From the pending signal, `run` concludes that its command got the signal too. If `run` is
//! killed, the watcher ends the command and the processes that the command started.
//!
//! The stdin of the watcher is a socket, from which the watcher reads numbers of four bytes:
//!
//! - A pid: the forked child of `run` sends its own pid, and then calls exec to become the command.
//! - [`TAKE_PENDING`]: `run` requests the pending signals of the watcher. The watcher answers with
//!   eight bytes, in which bit N-1 stands for signal N.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::SigSet;

use crate::exit;
use crate::failure::Failure;
use crate::ffi::unix as ffi;
use crate::limits::WATCHER_TIMEOUT;
use crate::process::ProcessHandle;
use crate::process_tree::end_tree;
use crate::signals::spawn_with_blocked_signals;

/// The single argument with which `run` starts this program as a watcher.
pub(crate) const WATCHER_ARG: &str = "watcher";

/// The request to take the pending signals. It cannot be a pid, because no process has the pid 0.
const TAKE_PENDING: u32 = 0;

/// Signals that a process group got: bit N-1 stands for signal N.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PendingSignals(u64);

impl PendingSignals {
    pub(crate) fn contains(self, signal: i32) -> bool {
        self.0 & (1 << (signal - 1)) != 0
    }

    /// Takes the pending signals of this process, which must have blocked all signals.
    fn take() -> io::Result<PendingSignals> {
        let mut taken = 0;
        loop {
            // A real-time signal stays pending, because the crate nix does not know such signals.
            // `run` forwards no real-time signal.
            let pending: SigSet = ffi::pending_signals()?.iter().collect();
            if pending == SigSet::empty() {
                return Ok(PendingSignals(taken));
            }
            // This wait returns at once, because a signal of the set is pending.
            taken |= 1 << (pending.wait()? as i32 - 1);
        }
    }
}

/// The watcher process, as `run` sees it.
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

    /// If this process ends before the command, the watcher ends the command and the processes that
    /// the command started. The forked child sends its pid before it calls exec, so the watcher
    /// knows the pid before the command runs.
    pub(crate) fn guard(&self, command: &mut Command) -> io::Result<()> {
        let socket = self.socket.try_clone()?;
        #[cfg(target_os = "macos")]
        rustix::net::sockopt::set_socket_nosigpipe(&socket, true)?;
        ffi::send_pid_from_child(command, socket);
        Ok(())
    }

    /// The signals that the watcher got since the last call.
    pub(crate) fn take_pending(&mut self) -> io::Result<PendingSignals> {
        self.socket.write_all(&TAKE_PENDING.to_ne_bytes())?;
        let mut mask = [0; 8];
        self.socket.read_exact(&mut mask)?;
        Ok(PendingSignals(u64::from_ne_bytes(mask)))
    }

    /// Discards a watcher that was reaped. Skips the kill in `drop`, because another process may
    /// have the pid by now.
    pub(crate) fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // If the watcher has already ended, the kill does nothing, and the wait reaps the
        // watcher.
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The main function of the watcher process.
pub(crate) fn run_watcher() -> Result<u8, Failure> {
    let cannot = |e: io::Error| Failure::system("run the watcher process of `portlease run`", &e);
    ffi::close_inherited_descriptors();
    // While a process has its working directory on a file system, nobody can unmount the file
    // system. So the watcher changes its working directory to `/`.
    std::env::set_current_dir("/").map_err(cannot)?;
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?;
    let mut socket = UnixStream::from(socket);
    let mut guarded = None;
    let mut number = [0; 4];
    // The read fails once `run` has ended, because the kernel then closes the socket of `run`.
    while socket.read_exact(&mut number).is_ok() {
        match u32::from_ne_bytes(number) {
            TAKE_PENDING => {
                let PendingSignals(mask) = PendingSignals::take().map_err(cannot)?;
                // If `run` has ended, this write fails. The next read then fails too, and ends the
                // loop.
                let _sent = socket.write_all(&mask.to_ne_bytes());
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
