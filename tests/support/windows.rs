//! What the tests need of Windows.

use std::mem::MaybeUninit;
use std::os::windows::io::AsSocket;
use std::path::Path;
use std::process::ExitStatus;

pub(crate) fn is_root() -> bool {
    false
}

/// What the standard library ends a process with.
pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.code() == Some(1)
}

/// Wine tells the process of a socket only when it has been read from once; nothing is there to be read.
pub(crate) fn show_owner(socket: &impl AsSocket) {
    let socket = socket2::SockRef::from(socket);
    socket.set_nonblocking(true).unwrap();
    let _refused = socket.recv(&mut [MaybeUninit::uninit()]);
    socket.set_nonblocking(false).unwrap();
}

/// Folders of the user's own have no other users.
pub(super) fn set_mode(_path: &Path, _mode: u32) {}

pub(super) fn others_reach(_path: &Path) -> bool {
    true
}

pub(super) fn scope() -> String {
    "machine".to_owned()
}
