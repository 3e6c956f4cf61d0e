//! The ephemeral range of Linux, read from `/proc/sys/net/ipv4`.

use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::Path;

use super::EphemeralRange;
use super::settings::{parse_list, parse_pair};
use crate::model::endpoint::Protocol;

/// The default range of Linux, for use if the range cannot be read.
const DEFAULT_RANGE: RangeInclusive<u16> = 32768..=60999;

pub(super) fn ephemeral() -> EphemeralRange {
    let range = setting("ip_local_port_range").and_then(|text| parse_pair(&text));
    let reserved = setting("ip_local_reserved_ports").and_then(|text| parse_list(&text));
    EphemeralRange::new(range, DEFAULT_RANGE, reserved.unwrap_or_default())
}

/// The first number that a user without privileges can bind.
pub(crate) fn unprivileged_from() -> u16 {
    setting("ip_unprivileged_port_start")
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

/// Always false: only Windows excludes port ranges from use.
pub(crate) fn is_excluded(_protocol: Protocol, _port: u16) -> bool {
    false
}

/// Reads the setting in one call, because a second read of the list of withheld ports returns
/// nothing. The buffer can hold the longest list, which names every second number.
fn setting(name: &str) -> Option<String> {
    const LONGEST: usize = 256 * 1024;
    let mut file = File::open(Path::new("/proc/sys/net/ipv4").join(name)).ok()?;
    let mut bytes = vec![0; LONGEST];
    let length = file.read(&mut bytes).ok()?;
    bytes.truncate(length);
    String::from_utf8(bytes).ok()
}
