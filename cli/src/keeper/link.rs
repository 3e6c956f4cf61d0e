//! The channel between `reserve` and its keeper (the process that holds the ports), and how the
//! keeper starts.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::{KeeperLink, ReserveLink, detach};
