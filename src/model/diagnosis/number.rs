//! [`Number`]: what is known about a port number, regardless of its holders.

use std::fmt;
use std::ops::RangeInclusive;

use crate::printable::printable;

/// What is known about a port number, regardless of its holders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) port: u16,
    /// The name of the service on this number in the system's services file (services(5)); `None`
    /// if the file has none.
    pub(crate) service: Option<String>,
    /// The range from which the kernel assigns numbers; `None` if it is unknown.
    pub(crate) ephemeral: Option<RangeInclusive<u16>>,
    /// The numbers that the administrator withheld from the kernel (on Linux
    /// `net.ipv4.ip_local_reserved_ports`). Some can lie outside the ephemeral range.
    pub(crate) withheld: Vec<RangeInclusive<u16>>,
    /// The first number that can be bound without a privilege.
    pub(crate) unprivileged_from: u16,
}

impl Number {
    pub(super) fn is_withheld(&self) -> bool {
        self.withheld.iter().any(|range| range.contains(&self.port))
    }

    /// Whether the kernel may choose the number for an outgoing connection. `false` if the range is
    /// unknown.
    pub(super) fn is_assigned_by_the_kernel(&self) -> bool {
        let ephemeral = self.ephemeral.as_ref();
        ephemeral.is_some_and(|range| range.contains(&self.port)) && !self.is_withheld()
    }

    /// The numbers that the administrator withheld from the kernel, and this number. The format is
    /// that of `net.ipv4.ip_local_reserved_ports`.
    pub(super) fn withheld_with_this(&self) -> String {
        let mut ranges = self.withheld.clone();
        ranges.push(self.port..=self.port);
        ranges.sort_by_key(|range| *range.start());
        let text = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
            (start, end) if start == end => start.to_string(),
            (start, end) => format!("{start}-{end}"),
        };
        ranges.iter().map(text).collect::<Vec<_>>().join(",")
    }

    fn is_privileged(&self) -> bool {
        self.port < self.unprivileged_from
    }
}

/// Prints text such as `dynamic (RFC 6335), inside this machine's ephemeral range 32768-60999`.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.port {
            0..=1023 => "system port (RFC 6335)",
            1024..=49151 => "user port (RFC 6335)",
            49152.. => "dynamic (RFC 6335)",
        })?;
        if let Some(service) = &self.service {
            write!(f, ", service {}", printable(service))?;
        }
        if self.is_privileged() {
            write!(f, ", privileged (below {})", self.unprivileged_from)?;
        }
        if let Some(range) = &self.ephemeral {
            let place = match (range.contains(&self.port), self.is_withheld()) {
                (true, true) => "withheld from",
                (true, false) => "inside",
                (false, _) => "outside",
            };
            write!(
                f,
                ", {place} this machine's ephemeral range {}-{}",
                range.start(),
                range.end()
            )?;
        }
        Ok(())
    }
}
