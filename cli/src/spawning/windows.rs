//! Windows: for a name without an extension, std finds only an `.exe` file. But many commands are
//! `.cmd` files, such as npm.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::exit;
use crate::spawning::with_program;

/// The extensions of batch files, which std passes to `cmd.exe`.
const BATCH: [&str; 2] = ["cmd", "bat"];

/// If std did not find the program (`cause` is `NotFound`), returns the command with a batch file
/// as its program. The file has the name of the program and an extension of [`BATCH`]. A name
/// without a folder is searched in PATH. Returns `None` if no such file exists, or for another
/// `cause`.
pub(crate) fn instead(command: &Command, cause: &io::Error) -> Option<Command> {
    if cause.kind() != io::ErrorKind::NotFound {
        return None;
    }
    let batch = batch_file(command.get_program())?;
    Some(with_program(command, batch.as_os_str(), None))
}

fn batch_file(program: &OsStr) -> Option<PathBuf> {
    let has_folder = Path::new(program).components().count() > 1;
    let path = match has_folder {
        true => OsString::from("."),
        false => std::env::var_os("PATH").unwrap_or_default(),
    };
    std::env::split_paths(&path).find_map(|folder| {
        let files = BATCH.iter().map(|extension| {
            let mut name = folder.join(program).into_os_string();
            name.push(".");
            name.push(extension);
            PathBuf::from(name)
        });
        files.into_iter().find(|file| file.is_file())
    })
}

/// Returns 126 or 127, as a Unix shell does. Exception: [`exit::RUN_FAILED`] if memory is short.
pub(crate) fn exit_code(_program: &OsStr, cause: &io::Error) -> u8 {
    match cause.kind() {
        io::ErrorKind::NotFound => 127,
        io::ErrorKind::OutOfMemory => exit::RUN_FAILED,
        _ => 126,
    }
}
