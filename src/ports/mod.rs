//! Which numbers an automatic pick tries, and in which order.

mod blocked;
mod ephemeral_range;
mod parity;
mod port_order;
pub(crate) mod services;
mod settings;
mod stable_order;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
mod sysctl;
#[cfg(windows)]
mod windows;

#[cfg(any(target_os = "linux", target_os = "android"))]
use linux as system;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
use sysctl as system;
#[cfg(windows)]
use windows as system;

pub(crate) use blocked::is_blocked;
pub(crate) use ephemeral_range::{EphemeralRange, Tier, lowest};
pub(crate) use parity::ParityExhaustion;
pub(crate) use port_order::shuffled;
#[cfg(any(test, fuzzing))]
pub(crate) use settings::every_range_in;
pub(crate) use stable_order::stable_order;
pub(crate) use system::{is_excluded, unprivileged_from};

pub(crate) fn is_privileged(number: u16) -> bool {
    number < unprivileged_from()
}

/// The first dynamic port (RFC 6335, section 6).
const DYNAMIC_FROM: u16 = 49152;
