//! Unix: the address of the socket on which a keeper (a process that holds ports) accepts the
//! requests of `release` and `list`.

use std::hash::{BuildHasher, Hasher, RandomState};

#[cfg(not(target_os = "linux"))]
mod bsd;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(not(target_os = "linux"))]
use bsd as system;
#[cfg(target_os = "linux")]
use linux as system;

pub(crate) use system::{Address, Bound, Peer, all_addresses};

/// A new name for the socket of this keeper. It ends with random digits, so no other process can
/// bind the name first. The digits also distinguish keepers that have the same pid in different PID
/// namespaces.
fn new_name(prefix: &str) -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{prefix}{random:016x}")
}
