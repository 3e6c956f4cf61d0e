//! [`Number`]: what is known about a port number, regardless of its holders.

use std::fmt;
use std::ops::RangeInclusive;

use crate::printable::printable;

/// What is known about a port number, regardless of its holders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) port: u16,
    /// The name in this system's services file.
    pub(crate) service: Option<String>,
    /// The range from which the kernel assigns numbers; `None` if it is unknown.
    pub(crate) ephemeral: Option<RangeInclusive<u16>>,
    /// Whether the administrator withheld the number from the ephemeral range
    /// (`net.ipv4.ip_local_reserved_ports` on Linux).
    pub(crate) withheld: bool,
    /// The first number that can be bound without a privilege.
    pub(crate) unprivileged_from: u16,
}

impl Number {
    fn is_privileged(&self) -> bool {
        self.port < self.unprivileged_from
    }
}

/// `dynamic (RFC 6335), inside this machine's ephemeral range 32768-60999`.
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
            let place = match (range.contains(&self.port), self.withheld) {
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
