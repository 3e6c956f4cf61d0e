//! Whether the parent started this process without a stdout.

/// A write cannot show that stdout was closed. Rust's runtime opens /dev/null in its place, so
/// every write succeeds.
#[cfg(unix)]
pub(crate) use crate::ffi::unix::is_stdout_closed_at_start;

/// A write cannot show that stdout is missing: the standard library reports success for the write.
#[cfg(windows)]
pub(crate) fn is_stdout_closed_at_start() -> bool {
    use std::os::windows::io::AsRawHandle;
    std::io::stdout().as_raw_handle().is_null()
}
