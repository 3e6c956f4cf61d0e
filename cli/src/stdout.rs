//! Whether the parent started this process without a stdout.

/// Rust's runtime replaces a closed stdout by /dev/null, so every write succeeds. The caller must
/// call this function before it writes.
#[cfg(unix)]
pub(crate) use crate::ffi::unix::is_stdout_closed_at_start;

/// The standard library reports success for a write to a missing stdout. The caller must call this
/// function before it writes.
#[cfg(windows)]
pub(crate) fn is_stdout_closed_at_start() -> bool {
    use std::os::windows::io::AsRawHandle;
    std::io::stdout().as_raw_handle().is_null()
}
