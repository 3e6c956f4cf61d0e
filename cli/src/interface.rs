//! Whether this machine has a network interface.

use std::io;

/// Whether this machine has the interface with this name or index.
#[cfg(unix)]
pub(crate) fn exists(interface: &str) -> io::Result<bool> {
    let error = match crate::ffi::unix::find_interface(interface) {
        Ok(()) => return Ok(true),
        Err(error) => error,
    };
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => Ok(false),
        _ => Err(error),
    }
}

/// Whether this machine has the interface with this name or index.
#[cfg(windows)]
pub(crate) fn exists(interface: &str) -> io::Result<bool> {
    Ok(crate::ffi::windows::has_interface(interface))
}
