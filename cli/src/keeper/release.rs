//! Sends the requests of `portlease release` and `portlease list` to keepers (the processes that
//! hold ports).

use portlease::Endpoint;

use crate::keeper::messages::RELEASED;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::{request_release, unrecorded_ports};

/// The endpoints that a keeper (a process that holds ports) has released. Empty if the keeper's
/// answer is a refusal.
fn released(answer: &str) -> Vec<Endpoint> {
    let mut words = answer.split(' ');
    match words.next() {
        Some(RELEASED) => words.filter_map(|word| word.parse().ok()).collect(),
        _ => Vec::new(),
    }
}
