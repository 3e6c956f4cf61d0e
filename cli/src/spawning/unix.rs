//! Unix: a script without a `#!` line is run by /bin/sh.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::exit;
use crate::spawning::with_program;

/// ENOEXEC: the kernel does not know the format of the executable file.
const NO_EXEC_FORMAT: i32 = 8;

/// If the kernel does not know the format of the program, returns a command that runs the program
/// with /bin/sh. The program is usually a script without a `#!` line. Shells run such a script too.
pub(crate) fn instead(command: &Command, cause: &io::Error) -> Option<Command> {
    if cause.raw_os_error() != Some(NO_EXEC_FORMAT) {
        return None;
    }
    let program = command.get_program();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program));
    let script = match program.as_bytes().contains(&b'/') {
        true => None,
        false => found.into_iter().find(|file| file.is_file()),
    };
    let script = script.unwrap_or_else(|| program.into());
    let shell = OsStr::new("/bin/sh");
    Some(with_program(command, shell, Some(script.as_os_str())))
}

/// Returns 126 or 127 as a shell would, or [`exit::RUN_FAILED`] if the system lacks resources.
pub(crate) fn exit_code(program: &OsStr, cause: &io::Error) -> u8 {
    match cause.kind() {
        io::ErrorKind::NotFound => 127,
        // If this user may not search a folder of PATH, exec(3) fails with EACCES even if the
        // command is missing. Shells report 127 for a missing command.
        io::ErrorKind::PermissionDenied if !may_exist(program) => 127,
        // EAGAIN, ENOMEM, ENFILE and EMFILE mean that the system lacks processes, memory or
        // descriptors, and say nothing about the command.
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => exit::RUN_FAILED,
        _ if matches!(cause.raw_os_error(), Some(23 | 24)) => exit::RUN_FAILED,
        _ => 126,
    }
}

/// Returns `true` if the name has a slash, or if this user sees a file of that name in a folder of
/// PATH.
fn may_exist(program: &OsStr) -> bool {
    if program.as_bytes().contains(&b'/') {
        return true;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
