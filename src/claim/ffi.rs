//! The one socket option that no safe call sets.
#![expect(unsafe_code, reason = "setsockopt is not safe for any option and size")]

use std::io;
use std::os::windows::io::AsRawSocket;

use socket2::Socket;
use windows_sys::Win32::Networking::WinSock::{
    SO_EXCLUSIVEADDRUSE, SOCKET, SOL_SOCKET, setsockopt,
};

/// Sets SO_EXCLUSIVEADDRUSE, which must happen before the bind. That bind fails if another socket
/// has the number on an address that this one covers. Later binds of such an address fail,
/// whichever options they set.
pub(super) fn set_exclusive(socket: &Socket) -> io::Result<()> {
    let on = 1i32.to_ne_bytes();
    // SAFETY: the socket is open while it is borrowed. The option is a BOOL, four bytes, and `on`
    // has four bytes and outlives the call.
    let failed = unsafe {
        setsockopt(
            socket.as_raw_socket() as SOCKET,
            SOL_SOCKET,
            SO_EXCLUSIVEADDRUSE,
            on.as_ptr(),
            on.len() as i32,
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
