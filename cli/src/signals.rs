//! Makes Ctrl-C exit with 130, and finds the signals that were ignored when this process started.

use std::io;

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use crate::exit;
use crate::failure::Failure;

/// Makes Ctrl-C exit with 130. No cleanup is needed: the kernel closes sockets and releases file
/// locks.
pub(crate) fn exit_on_interrupt() -> Result<(), Failure> {
    let cannot = |e: io::Error| Failure::system("handle signals", &e);
    if starts_ignored(SIGINT) {
        return Ok(());
    }
    let mut signals = Signals::new([SIGINT]).map_err(cannot)?;
    let wait = move || {
        if signals.forever().next().is_some() {
            std::process::exit(exit::INTERRUPTED);
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .map_err(cannot)?;
    Ok(())
}

/// Whether the parent started this process with the signal ignored. nohup does so, and shells do so
/// for background jobs. Such a signal must stay ignored, here and in children. If /proc/self/status
/// cannot be read, the result is `false`.
pub(crate) fn starts_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}
