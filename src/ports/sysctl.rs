//! What macOS and the BSDs assign by themselves: sysctl(8).

use std::ops::RangeInclusive;
use std::process::{Command, Stdio};

use once_cell::sync::OnceCell;

use super::settings::parse_pair;
use super::{DYNAMIC_FROM, EphemeralRange};
use crate::model::endpoint::Protocol;
use crate::model::port_set::PortSet;

/// macOS' own is IANA's. FreeBSD's begins earlier.
const DEFAULT_RANGE: RangeInclusive<u16> = if cfg!(target_os = "freebsd") {
    10000..=u16::MAX
} else {
    DYNAMIC_FROM..=u16::MAX
};

pub(super) fn ephemeral() -> EphemeralRange {
    static RANGE: OnceCell<Option<RangeInclusive<u16>>> = OnceCell::new();
    let range = RANGE.get_or_init(reported).clone();
    EphemeralRange::new(range, DEFAULT_RANGE, PortSet::default())
}

/// The first number that requires no privilege.
pub(crate) fn unprivileged_from() -> u16 {
    1024
}

/// No number is excluded from use.
pub(crate) fn is_excluded(_protocol: Protocol, _port: u16) -> bool {
    false
}

/// By sysctl(8): no safe call asks for a setting by its name.
fn reported() -> Option<RangeInclusive<u16>> {
    let names = ["net.inet.ip.portrange.first", "net.inet.ip.portrange.last"];
    let asked = |program: &str| {
        let output = Command::new(program)
            .arg("-n")
            .args(names)
            .stdin(Stdio::null())
            .output()
            .ok()?;
        parse_pair(&String::from_utf8_lossy(&output.stdout))
    };
    ["/usr/sbin/sysctl", "/sbin/sysctl"]
        .into_iter()
        .find_map(asked)
}
