//! Sends the request of `portlease release` to a keeper (the process that holds the ports).

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

pub(crate) use system::request_release;

fn no_answer() -> io::Error {
    let resume = match cfg!(unix) {
        true => "; if the process is suspended, resume it with `kill -CONT PID`",
        false => "",
    };
    let text = format!(
        "no answer within {}{resume}",
        humantime::format_duration(RELEASE_TIMEOUT)
    );
    io::Error::new(io::ErrorKind::TimedOut, text)
}
