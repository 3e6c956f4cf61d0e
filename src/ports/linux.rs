//! What Linux reports about port numbers: the ephemeral range, and the first number that requires
//! no privilege.

use std::io;
use std::ops::RangeInclusive;

use super::EphemeralRange;
use super::settings::{parse_list, parse_pair};
use crate::kept_setting::KeptSetting;
use crate::model::endpoint::Protocol;
use crate::os_error::is_exhaustion;
use crate::proc_fs;

/// The default range of Linux, for use if the range cannot be read.
const DEFAULT_RANGE: RangeInclusive<u16> = 32768..=60999;

pub(super) fn ephemeral() -> io::Result<EphemeralRange> {
    static RANGE: KeptSetting = KeptSetting::new("ip_local_port_range");
    static RESERVED: KeptSetting = KeptSetting::new("ip_local_reserved_ports");
    let range = text(&RANGE)?.and_then(|text| parse_pair(&text));
    let reserved = text(&RESERVED)?.and_then(|text| parse_list(&text));
    Ok(EphemeralRange::new(
        range,
        DEFAULT_RANGE,
        reserved.unwrap_or_default(),
    ))
}

/// The text of the setting, or `None` if it cannot be read. Fails if descriptors or memory are
/// lacking, because a later read may succeed.
fn text(setting: &KeptSetting) -> io::Result<Option<String>> {
    match setting.read() {
        Err(error) if is_exhaustion(&error) => Err(error),
        text => Ok(text.ok()),
    }
}

/// The first number that a user without privileges can bind; 1024 if the setting cannot be read.
pub(crate) fn unprivileged_from() -> u16 {
    proc_fs::setting("ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

/// Always false: only Windows excludes port ranges from use.
pub(crate) fn is_excluded(_protocol: Protocol, _port: u16) -> bool {
    false
}
