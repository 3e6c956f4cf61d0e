//! [`ReleaseListener`]: receives release requests for the keeper (the process that holds the
//! ports).

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::ReleaseListener;
