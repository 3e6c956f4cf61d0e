//! Sends the requests of `portlease release` and `portlease list` to keepers (the processes that
//! hold ports).

use std::io;

use portlease::Endpoint;

use crate::keeper::messages::RELEASED;
use crate::limits::RELEASE_TIMEOUT;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::{can_release, request_release, unrecorded_ports};

/// The endpoints that a keeper has released. Empty if its answer is a refusal.
fn released(answer: &str) -> Vec<Endpoint> {
    let mut words = answer.split(' ');
    match words.next() {
        Some(RELEASED) => words.filter_map(|word| word.parse().ok()).collect(),
        _ => Vec::new(),
    }
}

fn no_answer(keeper: u32) -> io::Error {
    let mut text = format!("no answer within {} s", RELEASE_TIMEOUT.as_secs());
    if cfg!(unix) {
        text += &format!("; if pid {keeper} is suspended, resume it with `kill -CONT {keeper}`");
    }
    io::Error::new(io::ErrorKind::TimedOut, text)
}
