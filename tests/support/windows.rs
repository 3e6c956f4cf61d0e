//! What the tests need of Windows.

use std::mem::MaybeUninit;
use std::os::windows::io::AsSocket;
use std::path::Path;
use std::process::ExitStatus;

pub(crate) fn is_root() -> bool {
    false
}

/// 1 is the exit code that `Child::kill` gives a process.
pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.code() == Some(1)
}

/// Makes wine report the owner of `socket`, which it does only after a first read. There is nothing
/// to read.
pub(crate) fn show_owner(socket: &impl AsSocket) {
    let socket = socket2::SockRef::from(socket);
    socket.set_nonblocking(true).unwrap();
    let _refused = socket.recv(&mut [MaybeUninit::uninit()]);
    socket.set_nonblocking(false).unwrap();
}

/// Nothing to do: no other user reaches a user's temporary folder.
pub(crate) fn set_mode(_path: &Path, _mode: u32) {}

pub(super) fn others_reach(_path: &Path) -> bool {
    true
}

pub(super) fn scope() -> String {
    "machine".to_owned()
}
