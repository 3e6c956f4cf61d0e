//! What happens on signals: 130 after Ctrl-C, and which of them were ignored when this process started.

use std::io;

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use crate::exit;
use crate::failure::Failure;

/// From now on Ctrl-C ends this process with 130. All that it has the kernel takes back.
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

/// Whether whoever started this process had the signal ignored, as nohup does, and a shell for what it starts in the
/// background: then it stays so, also for the children. Where it cannot be read, it was not.
pub(crate) fn starts_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}
