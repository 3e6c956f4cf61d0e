//! What an exit code says, where a command has no codes of its own.

pub(crate) const YES: u8 = 0;
pub(crate) const NO: u8 = 1;
/// Bad usage, or a failure: never "no".
pub(crate) const FAILED: u8 = 2;
/// Nothing was found, and something could not be read.
pub(crate) const UNTOLD: u8 = 3;
/// `run` failed before its command started.
pub(crate) const RUN_FAILED: u8 = 125;
