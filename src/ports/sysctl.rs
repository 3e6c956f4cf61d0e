//! The ephemeral range of macOS and the BSDs, as sysctl(8) reports it.

use std::io;
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};

use once_cell::sync::OnceCell;

use super::settings::parse_pair;
use super::{DYNAMIC_FROM, EphemeralRange};
use crate::model::endpoint::Protocol;
use crate::model::port_set::PortSet;
use crate::os_error::is_exhaustion;

/// The range if sysctl(8) reports none: on FreeBSD the default of FreeBSD, on any other system the
/// default of macOS, which is IANA's dynamic range.
const DEFAULT_RANGE: RangeInclusive<u16> = if cfg!(target_os = "freebsd") {
    10000..=u16::MAX
} else {
    DYNAMIC_FROM..=u16::MAX
};

pub(super) fn ephemeral() -> io::Result<EphemeralRange> {
    static RANGE: OnceCell<Option<RangeInclusive<u16>>> = OnceCell::new();
    // An error is not kept, so the next call runs sysctl(8) again.
    let range = match RANGE.get_or_try_init(query_range) {
        Err(error) if is_exhaustion(&error) => return Err(error),
        range => range.ok().cloned().flatten(),
    };
    Ok(EphemeralRange::new(
        range,
        DEFAULT_RANGE,
        PortSet::default(),
    ))
}

/// The first number that a user without privileges can bind, unless the administrator changed it.
/// Exception: on the wildcard address, macOS since 10.14 lets every user bind lower numbers too.
pub(crate) fn unprivileged_from() -> u16 {
    1024
}

/// Always false: only Windows excludes port ranges from use.
pub(crate) fn is_excluded(_protocol: Protocol, _port: u16) -> bool {
    false
}

/// Runs sysctl(8), because the C function sysctlbyname(3) can only be called in unsafe code. The
/// result is `None` if sysctl(8) is missing or reports no range.
fn query_range() -> io::Result<Option<RangeInclusive<u16>>> {
    let names = ["net.inet.ip.portrange.first", "net.inet.ip.portrange.last"];
    for program in ["/usr/sbin/sysctl", "/sbin/sysctl"] {
        let mut query = Command::new(program);
        query.arg("-n").args(names).stdin(Stdio::null());
        match query.output() {
            Ok(output) => return Ok(parse_pair(&String::from_utf8_lossy(&output.stdout))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
