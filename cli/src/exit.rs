//! The exit codes. `run` also returns the exit code of its command, and 126 or 127 as a shell does.

pub(crate) const YES: u8 = 0;
pub(crate) const NO: u8 = 1;
/// A usage error or a failure.
pub(crate) const FAILED: u8 = 2;
/// Something could not be read or checked. Nothing was found, or the answer is not certain.
pub(crate) const INCOMPLETE: u8 = 3;
/// `run` itself failed, before or after it started its command.
pub(crate) const RUN_FAILED: u8 = 125;
/// `wait --pid`: the process ended before the ports met the condition.
pub(crate) const PROCESS_ENDED: u8 = 2;
