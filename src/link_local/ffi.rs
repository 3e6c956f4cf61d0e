//! The names and indexes of network interfaces, and on Linux whether an interface is up.
#![expect(
    unsafe_code,
    reason = "if_nametoindex(3), if_indextoname(3) and ioctl(2) are C functions"
)]

use std::ffi::{CStr, CString};
use std::io;

#[cfg(unix)]
use libc::{IF_NAMESIZE, if_indextoname, if_nametoindex};
#[cfg(windows)]
use windows_sys::Win32::NetworkManagement::IpHelper::{if_indextoname, if_nametoindex};

/// NDIS_IF_MAX_STRING_SIZE (256), plus 1 for the zero byte at the end.
#[cfg(windows)]
const IF_NAMESIZE: usize = 257;

/// The index of the network interface with this name, in the thread's network namespace.
pub(super) fn index_of(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: `name` ends with a zero byte and outlives the call, which only reads it.
    match unsafe { if_nametoindex(name.as_ptr().cast()) } {
        0 => Err(last_error()),
        index => Ok(index),
    }
}

/// The name of the network interface with this index, in the thread's network namespace.
pub(super) fn name_of(index: u32) -> io::Result<String> {
    let mut name = [0; IF_NAMESIZE];
    // SAFETY: the call writes at most IF_NAMESIZE bytes, which is the size of `name`.
    let written = unsafe { if_indextoname(index, name.as_mut_ptr().cast()) };
    if written.is_null() {
        return Err(last_error());
    }
    let name = CStr::from_bytes_until_nul(&name).map_err(io::Error::other)?;
    Ok(name.to_string_lossy().into_owned())
}

/// Whether the network interface with this name is up, in the thread's network namespace.
#[cfg(target_os = "linux")]
pub(super) fn is_up(name: &CStr) -> io::Result<bool> {
    use std::os::fd::AsRawFd;

    // The system call needs a socket of any kind.
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    // SAFETY: each field of `ifreq` is a number, a pointer or an array of numbers. Zero is a valid
    // value of all these.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte of the name stays zero.
    let room = request.ifr_name.len() - 1;
    for (to, byte) in request.ifr_name[..room].iter_mut().zip(name.to_bytes()) {
        *to = *byte as libc::c_char;
    }
    let flags = libc::SIOCGIFFLAGS as libc::Ioctl;
    // SAFETY: SIOCGIFFLAGS reads and writes the `ifreq` whose address it gets.
    if unsafe { libc::ioctl(socket.as_raw_fd(), flags, &raw mut request) } != 0 {
        return Err(last_error());
    }
    // SAFETY: SIOCGIFFLAGS has written this field.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(i32::from(flags) & libc::IFF_UP != 0)
}

/// The error of the last failed call of the C library. Linux reports a missing interface as ENODEV
/// or ENXIO, and macOS as ENXIO. Both codes become `NotFound`.
#[cfg(unix)]
fn last_error() -> io::Error {
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => io::ErrorKind::NotFound.into(),
        _ => error,
    }
}

/// Windows documents no error code for these calls, and no reason to fail except a missing
/// interface. So every failure becomes `NotFound`.
#[cfg(windows)]
fn last_error() -> io::Error {
    io::ErrorKind::NotFound.into()
}
