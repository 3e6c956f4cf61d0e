//! How full the ephemeral range is, as an object of the JSON output.

use portlease::EphemeralUsage;
use serde::Serialize;

/// How many numbers of the ephemeral range have a TCP socket, by the state of the socket. The count
/// of a state is null if the sockets in that state could not be read.
#[derive(Debug, Serialize)]
pub(crate) struct EphemeralUsageRow {
    low: u16,
    high: u16,
    ports: usize,
    in_use: usize,
    listening: Option<usize>,
    bound: Option<usize>,
    connected: Option<usize>,
    time_wait: Option<usize>,
    complete: bool,
    unseen: Vec<String>,
}

impl From<&EphemeralUsage> for EphemeralUsageRow {
    fn from(usage: &EphemeralUsage) -> Self {
        EphemeralUsageRow {
            low: *usage.range().start(),
            high: *usage.range().end(),
            ports: usage.ports(),
            in_use: usage.in_use(),
            listening: usage.listening(),
            bound: usage.bound(),
            connected: usage.connected(),
            time_wait: usage.time_wait(),
            complete: usage.is_complete(),
            unseen: usage.unseen(),
        }
    }
}
