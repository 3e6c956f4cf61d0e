//! What to do if the command of `run` cannot be started: another way to start it, or an exit code.

use std::ffi::OsStr;
use std::process::Command;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::{exit_code, instead};

/// A command that runs `program` with the arguments and the environment of `command`. The argument
/// `first` comes before those arguments. The caller must add the sockets that `command` passes on,
/// because the new command has none of them.
fn with_program(command: &Command, program: &OsStr, first: Option<&OsStr>) -> Command {
    let mut other = Command::new(program);
    other.args(first).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}
