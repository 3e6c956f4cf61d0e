//! The messages that `reserve` and `release` exchange with the keeper (the process that holds
//! ports).

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::args::PortSelection;
use crate::output::json::ReservedRow;

/// The single argument with which `reserve` starts this program as a keeper.
pub(crate) const KEEPER_ARG: &str = "keeper";

/// `reserve` sends this request to the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) selection: PortSelection,
    /// The process that the ports are held for. `None` if the ports are not held for a process,
    /// only for `hold_for`.
    pub(crate) pid: Option<u32>,
    pub(crate) hold_for: Option<Duration>,
}

/// The keeper sends this answer to `reserve`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Holds(Vec<ReservedRow>),
    Failed(String),
}

/// `reserve` sends this line to the keeper when it has printed the numbers.
pub(crate) const PRINTED: &str = "printed\n";

/// The keeper sends this line to `release` when it has released the port.
pub(crate) const RELEASED: &str = "released";

/// The abstract Unix socket name on which a keeper accepts release requests. The kernel removes the
/// name when the keeper ends. The name belongs to one network namespace, as the ports do. It ends
/// with random digits, so no process can bind the name first. Keepers with the same id in different
/// PID namespaces have different names.
pub(crate) fn new_release_name(keeper: u32) -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{}{random:016x}", release_prefix(keeper))
}

/// All bound socket names of the keeper with this id. Any process can bind a name of this form, so
/// the caller must check which process answers.
pub(crate) fn release_names(keeper: u32) -> io::Result<Vec<String>> {
    let prefix = format!("@{}", release_prefix(keeper));
    let table = std::fs::read("/proc/net/unix")?;
    let table = String::from_utf8_lossy(&table);
    let names = table
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with(&prefix))
        .map(|name| name.trim_start_matches('@').to_owned())
        .collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn release_prefix(keeper: u32) -> String {
    format!("portlease/keeper/{keeper}/")
}

pub(crate) fn send(socket: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    socket.write_all(&line)
}
