//! Unix: the signals that this process got, and which of them came from the terminal.

#[cfg(not(target_os = "linux"))]
mod bsd;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(not(target_os = "linux"))]
use bsd as system;
#[cfg(target_os = "linux")]
use linux as system;

pub(crate) use system::ReceivedSignals;

/// A signal that this process got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) signal: i32,
    /// `true` if the kernel sent the signal. The kernel sends the signals of the terminal. SIGINT
    /// of Ctrl-C goes to the whole foreground process group. SIGHUP sometimes goes to the session
    /// leader alone. Always `false` on systems other than Linux, where this program does not learn
    /// the sender.
    pub(crate) is_from_terminal: bool,
}
