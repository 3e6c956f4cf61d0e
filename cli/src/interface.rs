//! Whether this machine has a network interface.

use std::io;

/// Whether this machine has the interface with this name or index.
#[cfg(unix)]
pub(crate) fn exists(interface: &str) -> io::Result<bool> {
    use nix::errno::Errno;
    use nix::net::if_::{if_indextoname, if_nametoindex};

    let found = match interface.parse() {
        Ok(index) => if_indextoname(index).map(drop),
        Err(_) => if_nametoindex(interface).map(drop),
    };
    match found {
        Ok(()) => Ok(true),
        Err(Errno::ENODEV | Errno::ENXIO) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Whether this machine has the interface with this name or index.
#[cfg(windows)]
pub(crate) fn exists(interface: &str) -> io::Result<bool> {
    Ok(crate::ffi::windows::has_interface(interface))
}
