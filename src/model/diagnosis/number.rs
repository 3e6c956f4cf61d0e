//! What a number is, and which servers could bind it.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// What the number itself is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) port: u16,
    /// The name in this system's services file.
    pub(crate) service: Option<String>,
    /// The range from which the kernel assigns numbers by itself, where it is known.
    pub(crate) ephemeral: Option<RangeInclusive<u16>>,
    /// The administrator withheld the number from that range.
    pub(crate) withheld: bool,
    /// Lower numbers take a privilege.
    pub(crate) unprivileged_from: u16,
}

/// One bind that was tried and undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trial {
    pub(crate) ip: IpAddr,
    pub(crate) reuse_addr: bool,
    pub(crate) admitted: bool,
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
            write!(f, ", service {}", crate::model::record::printable(service))?;
        }
        if self.is_privileged() {
            write!(f, ", privileged below {}", self.unprivileged_from)?;
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

/// Which servers could bind: `with SO_REUSEADDR could bind everywhere; without it nowhere`. Where that option is not a
/// server's, as on Windows, without the option's name.
pub(super) struct Trials<'a>(pub(super) &'a [Trial]);

impl fmt::Display for Trials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let both = self.0.iter().any(|trial| trial.reuse_addr);
        if both && self.0.iter().all(|trial| trial.admitted) {
            return f.write_str("could bind everywhere, with SO_REUSEADDR and without");
        }
        let names: &[_] = match both {
            true => &[
                (true, "with SO_REUSEADDR could bind"),
                (false, "; without it"),
            ],
            false => &[(false, "could bind")],
        };
        for &(reuse_addr, name) in names {
            let of = |admitted: bool| {
                let asker = self
                    .0
                    .iter()
                    .filter(|trial| trial.reuse_addr == reuse_addr && trial.admitted == admitted);
                asker
                    .map(|trial| trial.ip.to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let (admitted, refused) = (of(true), of(false));
            match (admitted.as_str(), refused.as_str()) {
                (_, "") => write!(f, "{name} everywhere")?,
                ("", _) => write!(f, "{name} nowhere")?,
                (some, others) => write!(f, "{name} {some}, and not {others}")?,
            }
        }
        Ok(())
    }
}
