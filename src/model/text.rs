//! The text of ranges, durations, ages, counts, addresses and causes in messages.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::link_local;
use crate::printable::printable;

/// What a message says if a bind fails with EACCES although the number requires no privilege.
pub(crate) const FORBIDDEN: &str = "this number requires no privilege, so a sandbox or a security \
                                    policy forbids the bind (on Linux for example Landlock)";

/// Prints text such as `20000-20999`.
pub(crate) struct RangeText<'a>(pub(crate) &'a RangeInclusive<u16>);

impl fmt::Display for RangeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

/// Prints an address and the interface of its scope id, as in `fe80::1%eth0`. If the interface has
/// no known name, prints the scope id instead. If the scope id is 0, prints only the address.
pub(crate) struct IpText(pub(crate) IpAddr, pub(crate) u32);

impl fmt::Display for IpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IpText(ip, scope_id) = self;
        match scope_id {
            0 => write!(f, "{ip}"),
            scope_id => write!(
                f,
                "{ip}%{}",
                printable(&link_local::interface_text(*scope_id))
            ),
        }
    }
}

/// Prints a socket address as [`SocketAddr`] does, but names the interface of a scope id.
pub(crate) struct AddrText(pub(crate) SocketAddr);

impl fmt::Display for AddrText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SocketAddr::V6(addr) => {
                let ip = IpText((*addr.ip()).into(), addr.scope_id());
                write!(f, "[{ip}]:{}", addr.port())
            }
            SocketAddr::V4(addr) => write!(f, "{addr}"),
        }
    }
}

/// Prints text such as `30 ms`, `2.5 s` or `90 s`.
pub(crate) struct DurationText(pub(crate) Duration);

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        match self.0.as_millis() {
            _ if self.0.is_zero() => f.write_str("0 s"),
            0 => write!(f, "{} us", self.0.as_micros()),
            millis @ 1..1000 => write!(f, "{millis} ms"),
            // `{:.1} s` would print 90 seconds as "90.0 s".
            _ => write!(f, "{} s", (seconds * 10.0).round() / 10.0),
        }
    }
}

/// Prints text such as `41 s`, `3 min`, `2 h` or `5 days`, rounded down. Hours start at 2 h and
/// days at 2 days, because `119 min` says more than `1 h`.
pub(crate) struct AgeText(pub(crate) Duration);

impl fmt::Display for AgeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            s @ 0..60 => write!(f, "{s} s"),
            s @ 60..7_200 => write!(f, "{} min", s / 60),
            s @ 7_200..172_800 => write!(f, "{} h", s / 3_600),
            s => write!(f, "{} days", s / 86_400),
        }
    }
}

/// Returns text such as `1 connection` or `12 connections`.
pub(crate) fn connections(count: usize) -> String {
    if count == 1 {
        "1 connection".to_owned()
    } else {
        format!("{count} connections")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_in_their_own_unit() {
        for (micros, text) in [
            (0, "0 s"),
            (999, "999 us"),
            (30_000, "30 ms"),
            (999_999, "999 ms"),
            (1_000_000, "1 s"),
            (2_500_000, "2.5 s"),
            (90_000_000, "90 s"),
        ] {
            assert_eq!(
                DurationText(Duration::from_micros(micros)).to_string(),
                text
            );
        }
    }

    #[test]
    fn ages_are_printed_in_the_largest_unit_that_distinguishes_them() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (7199, "119 min"),
            (7200, "2 h"),
            (172_799, "47 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(AgeText(Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
