//! What Linux assigns by itself: `/proc/sys/net/ipv4`.

use super::{EphemeralRange, Ports, Protocol, RangeInclusive, parse_pair};

/// Linux's own, where the machine does not say.
const DEFAULT_RANGE: RangeInclusive<u16> = 32768..=60999;

pub(super) fn ephemeral() -> EphemeralRange {
    let range = setting("ip_local_port_range").and_then(|text| parse_pair(&text));
    let reserved = setting("ip_local_reserved_ports").and_then(|text| Ports::parse(&text));
    EphemeralRange {
        range: range.unwrap_or(DEFAULT_RANGE),
        reserved: reserved.unwrap_or_default(),
    }
}

/// The first number that takes no privilege.
pub(crate) fn unprivileged_from() -> u16 {
    setting("ip_unprivileged_port_start")
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

/// No number is kept from everybody.
pub(crate) fn is_excluded(_protocol: Protocol, _port: u16) -> bool {
    false
}

fn setting(name: &str) -> Option<String> {
    std::fs::read_to_string(std::path::Path::new("/proc/sys/net/ipv4").join(name)).ok()
}
