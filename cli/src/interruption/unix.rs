//! Unix: a signal handler stores the number of the signal.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag::register_usize;

use crate::signals::starts_ignored;

/// The number of the last signal; 0 if there was none.
static RECEIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// A signal that was ignored when this process started stays ignored.
pub(super) fn watch() -> io::Result<()> {
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        if !starts_ignored(signal) {
            let number = usize::try_from(signal).unwrap_or_default();
            register_usize(signal, Arc::clone(&RECEIVED), number)?;
        }
    }
    Ok(())
}

pub(super) fn received() -> Option<i32> {
    let number = i32::try_from(RECEIVED.load(Ordering::SeqCst)).ok();
    number.filter(|number| *number != 0)
}
