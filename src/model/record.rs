//! [`Record`]: who reserved a port, and when.

use std::num::NonZeroU64;
use std::time::Duration;

/// Who reserved a port, and when. The record is in the lock file if that file belongs to the
/// reserving user. Otherwise, and always on Windows, the record is in a file of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) pid: u32,
    /// When the process started, in the system's own unit; `None` if the system does not report
    /// it. The value distinguishes the process from a later one with the same pid.
    pub(crate) started: Option<NonZeroU64>,
    pub(crate) program: String,
    pub(crate) test: String,
    pub(crate) at: String,
    pub(crate) label: String,
    /// The command that runs under the reservation; empty if the caller named none.
    pub(crate) command: String,
    /// The working directory of the process when it reserved the port; empty if it is unknown.
    pub(crate) working_directory: String,
    /// When the port was reserved, as the time since the Unix epoch.
    pub(crate) since: Duration,
    /// The inode of the claim (the bound socket of the reservation). `None` without a claim, or if
    /// the inode is unknown.
    pub(crate) socket: Option<NonZeroU64>,
    /// The inode of the pid namespace that `pid` and `on_behalf_of` belong to; `None` if it is
    /// unknown.
    pub(crate) pid_namespace: Option<NonZeroU64>,
    /// The process that the port is reserved for. `None` if the reserving process reserved the port
    /// for itself, or if the start time of the other process is unknown.
    pub(crate) on_behalf_of: Option<Beneficiary>,
    /// The stable name that the caller gave to the reservation; `None` without one.
    pub(crate) name: Option<StableName>,
}

/// A stable name, and the number that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StableName {
    pub(crate) name: String,
    /// The number that the name stands for. The reserved number can be another one, for example
    /// because the first choice was taken.
    pub(crate) first_choice: u16,
}

/// The process that a port is reserved for. `started` distinguishes this process from a later one
/// with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beneficiary {
    pub(crate) pid: u32,
    pub(crate) started: Option<NonZeroU64>,
}
