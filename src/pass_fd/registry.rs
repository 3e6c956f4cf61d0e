//! Records which sockets a command passes, so that a later call for the same command adds to them.

use std::ffi::{OsStr, OsString};
use std::process::Command;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::ffi;
use super::passed::Passed;

/// The sockets of each command, by a random token. The environment settings of the command contain
/// the token.
static PASSED: Mutex<Vec<(u64, Weak<Passed>)>> = Mutex::new(Vec::new());

/// A command that passes sockets is marked by an environment variable: this prefix, then the token.
/// This crate sets the mark with `Command::env_remove`, so no child sees the variable.
/// `Command::get_envs` still lists the variable, without a value.
const TOKEN_PREFIX: &str = "PORTLEASE_PASSED_";

impl Passed {
    /// The sockets that earlier calls passed to this command.
    pub(super) fn by(command: &Command) -> Option<Arc<Passed>> {
        let passed = PASSED.lock();
        let sockets_of = |(name, value): (&OsStr, Option<&OsStr>)| {
            let token = token_in(name).filter(|_| value.is_none())?;
            let (_, sockets) = passed.iter().find(|(known, _)| *known == token)?;
            sockets.upgrade()
        };
        command.get_envs().find_map(sockets_of)
    }

    /// Makes each child of the command inherit the sockets from the index `first` on.
    pub(super) fn inherit(self, command: &mut Command, first: usize) {
        let known = command.get_envs().find_map(|(name, _)| token_in(name));
        let token = known.unwrap_or_else(|| fastrand::u64(..));
        let this = Arc::new(self);
        let mut passed = PASSED.lock();
        passed.retain(|(other, sockets)| *other != token && sockets.strong_count() > 0);
        passed.push((token, Arc::downgrade(&this)));
        drop(passed);
        command.env_remove(format!("{TOKEN_PREFIX}{token}"));
        ffi::inherit(command, this, first);
    }
}

/// The environment settings of a command, without the variable that begins with [`TOKEN_PREFIX`].
pub(super) fn variables(command: &Command) -> impl Iterator<Item = (OsString, Option<OsString>)> {
    command
        .get_envs()
        .filter(|(name, _)| token_in(name).is_none())
        .map(|(name, value)| (name.to_owned(), value.map(OsStr::to_owned)))
}

fn token_in(variable: &OsStr) -> Option<u64> {
    variable.to_str()?.strip_prefix(TOKEN_PREFIX)?.parse().ok()
}
