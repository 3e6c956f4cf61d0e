//! [`ReleaseListener`] answers the requests of `release` and `list` to the keeper (the process that
//! holds the ports).

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::ReleaseListener;
