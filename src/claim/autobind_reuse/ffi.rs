//! IP_LOCAL_PORT_RANGE of ip(7), a socket option that no safe function sets.
#![expect(unsafe_code, reason = "setsockopt reads the value by a raw pointer")]

use std::io;
use std::mem::size_of_val;
use std::os::fd::AsRawFd;

use socket2::Socket;

/// From include/uapi/linux/in.h. The crate libc lacks it.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Lets the kernel assign only this number to the socket, if the ephemeral range contains the
/// number. Fails with ENOPROTOOPT on Linux before 6.3.
pub(super) fn allow_only(socket: &Socket, port: u16) -> io::Result<()> {
    let range = u32::from(port) << 16 | u32::from(port);
    // SAFETY: the socket is open while it is borrowed. The option is a u32, and `range` has its
    // size and outlives the call, which only reads it.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            IP_LOCAL_PORT_RANGE,
            (&raw const range).cast(),
            size_of_val(&range) as libc::socklen_t,
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
