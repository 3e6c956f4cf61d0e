//! Whether the parent started this process without a stdout.

/// Rust's runtime replaces a closed stdout by /dev/null, to which every write succeeds. So the
/// caller must check this before it writes.
#[cfg(unix)]
pub(crate) use crate::ffi::unix::is_stdout_closed_at_start;

/// The standard library reports success for a write to a missing stdout, so the caller must check
/// this before it writes.
#[cfg(windows)]
pub(crate) fn is_stdout_closed_at_start() -> bool {
    use std::os::windows::io::AsRawHandle;
    std::io::stdout().as_raw_handle().is_null()
}
