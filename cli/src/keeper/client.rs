//! Connects to keepers (the processes that hold ports).

use std::io;

use crate::limits::RELEASE_TIMEOUT;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

#[cfg(windows)]
pub(crate) use system::release_pipe;
#[cfg(unix)]
pub(crate) use system::time_left;
pub(crate) use system::{can_release, connect};

pub(crate) fn no_answer(keeper: u32) -> io::Error {
    let mut text = format!("no answer within {} s", RELEASE_TIMEOUT.as_secs());
    if cfg!(unix) {
        text += &format!("; if pid {keeper} is suspended, resume it with `kill -CONT {keeper}`");
    }
    io::Error::new(io::ErrorKind::TimedOut, text)
}
