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
    /// Whether the kernel sent the signal, as it does for Ctrl-C. The kernel then sent it to the
    /// whole foreground process group of the terminal. SIGHUP is an exception: the kernel can send
    /// it to the session leader alone. `false` on systems that do not show the sender.
    pub(crate) is_from_terminal: bool,
}
