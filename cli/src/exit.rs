//! Exit codes of every command that has none of its own.

pub(crate) const YES: u8 = 0;
pub(crate) const NO: u8 = 1;
/// A usage error or a failure. It never means "no".
pub(crate) const FAILED: u8 = 2;
/// Nothing was found, and something could not be read.
pub(crate) const INCOMPLETE: u8 = 3;
/// `run` failed before its command started.
pub(crate) const RUN_FAILED: u8 = 125;
/// `wait --pid`: the process ended before the ports met the condition.
pub(crate) const PROCESS_ENDED: u8 = 2;
/// After Ctrl-C: 128 plus the number of SIGINT, as shells report it.
pub(crate) const INTERRUPTED: i32 = 130;
