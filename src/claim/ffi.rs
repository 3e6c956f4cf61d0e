//! SO_EXCLUSIVEADDRUSE of Windows, a socket option that no safe function sets.
#![expect(unsafe_code, reason = "setsockopt reads the value by a raw pointer")]

use std::io;
use std::os::windows::io::AsRawSocket;

use socket2::Socket;
use windows_sys::Win32::Networking::WinSock::{
    SO_EXCLUSIVEADDRUSE, SOCKET, SOL_SOCKET, setsockopt,
};

/// Sets SO_EXCLUSIVEADDRUSE. Call this before the bind of the socket. After the bind, Windows
/// refuses every other bind to the same address and port, with any options.
///
/// If the address is a wildcard, Windows also refuses binds to the single addresses that the
/// wildcard contains. If the address is a single one, Windows still admits a bind of the wildcard
/// by a socket without this option.
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
