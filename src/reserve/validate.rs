//! Validation: turns [`ReserveOptions`] into a [`Request`], or reports a contradiction.

use std::ops::{Bound, RangeInclusive};

use super::options::ReserveOptions;
use super::stable_name;
use crate::acquire::Request;
use crate::model::endpoint::ParseEndpointError;
use crate::model::error::{Error, Result};
use crate::model::offsets::Offsets;

/// The ports that a call reserves together.
#[derive(Clone, Copy)]
enum Ports<'a> {
    Many(usize),
    /// Ports at these distances from one base number.
    Offsets(&'a Offsets),
}

impl ReserveOptions {
    /// The request for `n` ports, or an error if the options contradict each other.
    #[track_caller]
    pub(super) fn validate(self, n: usize) -> Result<Request> {
        self.validate_ports(Ports::Many(n))
    }

    /// The request for ports at these distances from one base number.
    #[track_caller]
    pub(super) fn validate_offsets(self, offsets: &Offsets) -> Result<Request> {
        self.validate_ports(Ports::Offsets(offsets))
    }

    #[track_caller]
    fn validate_ports(self, ports: Ports<'_>) -> Result<Request> {
        let at = std::panic::Location::caller();
        if self.port == Some(0) || self.prefer.contains(&0) {
            return Err(ParseEndpointError::PORT_ZERO.into());
        }
        if self.aligned == 0 {
            return Err(Error::aligned_to_zero());
        }
        if let (Some(port), Some(name)) = (self.port, &self.name) {
            return Err(Error::exact_and_named(port, name));
        }
        let range = self
            .range
            .map(|(low, high)| inclusive(low, high))
            .transpose()?;
        // `PORTLEASE_RANGE` limits the numbers that this crate chooses. A single exact number is
        // exempt, because the caller chose it. Ports at fixed distances are not: the caller chose
        // only their base number.
        let is_single = match ports {
            Ports::Many(n) => n == 1,
            Ports::Offsets(offsets) => offsets.count() == 1,
        };
        let env_range = match self.port {
            Some(_) if is_single => None,
            _ => range_variable()?,
        };
        let allowed = match (&range, &env_range) {
            (Some(range), Some(env_range)) => {
                let both =
                    *range.start().max(env_range.start())..=*range.end().min(env_range.end());
                if both.is_empty() {
                    return Err(Error::range_outside_firewall(range, env_range));
                }
                Some(both)
            }
            (Some(range), None) | (None, Some(range)) => Some(range.clone()),
            (None, None) => None,
        };
        match self.port {
            Some(port) => self.check_exact(port, ports, allowed.as_ref(), env_range.as_ref())?,
            None => self.check_automatic(ports, allowed.clone().unwrap_or(1..=u16::MAX))?,
        }
        let prefer = self.prefer.into_iter().filter(|port| {
            !self.exclude.contains(*port)
                && port.is_multiple_of(self.aligned)
                && env_range
                    .as_ref()
                    .is_none_or(|env_range| env_range.contains(port))
        });
        Ok(Request {
            protocols: self.protocols,
            server: self.server,
            prefer: prefer.collect(),
            port: self.port,
            allowed,
            exclude: self.exclude,
            aligned: self.aligned,
            wait: self.wait,
            label: self.label,
            name: self.name.map(stable_name::resolve).transpose()?,
            on_behalf_of: self.on_behalf_of,
            at,
        })
    }

    /// Checks that the options and the variable allow an exact number, and every port at a fixed
    /// distance from it.
    fn check_exact(
        &self,
        base: u16,
        ports: Ports<'_>,
        allowed: Option<&RangeInclusive<u16>>,
        env_range: Option<&RangeInclusive<u16>>,
    ) -> Result<()> {
        if !base.is_multiple_of(self.aligned) {
            return Err(Error::exact_port_not_aligned(base, self.aligned));
        }
        let numbers: Vec<u16> = match ports {
            Ports::Many(_) => vec![base],
            Ports::Offsets(offsets) => match offsets.ports(base) {
                Some(numbers) => numbers.collect(),
                None if offsets.is_block() => {
                    return Err(Error::block_cannot_fit(offsets.count(), &(base..=u16::MAX)));
                }
                None => return Err(Error::offsets_exceed(offsets, base)),
            },
        };
        if let Some(env_range) = env_range
            && let Some(number) = numbers.iter().find(|number| !env_range.contains(number))
        {
            return Err(Error::block_outside_firewall(*number, env_range));
        }
        let is_ruled_out = |number: &&u16| {
            let outside = allowed.is_some_and(|range| !range.contains(number));
            outside || self.exclude.contains(**number)
        };
        match numbers.iter().find(is_ruled_out) {
            Some(number) => Err(Error::exact_port_ruled_out(*number)),
            None => Ok(()),
        }
    }

    /// Checks that the options and the variable leave enough numbers.
    fn check_automatic(&self, ports: Ports<'_>, range: RangeInclusive<u16>) -> Result<()> {
        let is_allowed = |port: u16| range.contains(&port) && !self.exclude.contains(port);
        if !range.clone().any(is_allowed) {
            return Err(Error::range_all_excluded(&range));
        }
        match ports {
            Ports::Many(n) => {
                // Counts to `n` at most, because ranges are long.
                let counts = |port: &u16| is_allowed(*port) && port.is_multiple_of(self.aligned);
                match (range.clone().filter(counts).take(n).count(), self.aligned) {
                    (count, 1) if count < n => Err(Error::block_cannot_fit(n, &range)),
                    (count, multiple) if count < n => {
                        Err(Error::too_few_multiples(n, multiple, &range))
                    }
                    _ => Ok(()),
                }
            }
            Ports::Offsets(offsets) => {
                let n = offsets.count();
                if range
                    .clone()
                    .filter(|port| is_allowed(*port))
                    .take(n)
                    .count()
                    < n
                {
                    return Err(Error::block_cannot_fit(n, &range));
                }
                let fits = |base: u16| {
                    let mut numbers = offsets.ports(base).into_iter().flatten().peekable();
                    numbers.peek().is_some() && numbers.all(is_allowed)
                };
                let mut bases = (0..=u16::MAX).step_by(self.aligned.into());
                match bases.any(fits) {
                    true => Ok(()),
                    false => Err(Error::offsets_cannot_fit(offsets, self.aligned, &range)),
                }
            }
        }
    }
}

fn inclusive(low: Bound<u16>, high: Bound<u16>) -> Result<RangeInclusive<u16>> {
    let low = match low {
        Bound::Included(0) => return Err(ParseEndpointError::PORT_ZERO.into()),
        Bound::Included(low) => Some(low),
        Bound::Excluded(low) => low.checked_add(1),
        Bound::Unbounded => Some(1),
    };
    let high = match high {
        Bound::Included(high) => Some(high),
        Bound::Excluded(high) => high.checked_sub(1),
        Bound::Unbounded => Some(u16::MAX),
    };
    match (low, high) {
        (Some(low), Some(high)) if low <= high => Ok(low..=high),
        _ => Err(Error::empty_range(low, high)),
    }
}

/// The value of `PORTLEASE_RANGE`: the numbers that automatic picks and blocks may use, for example
/// on a machine whose firewall opens only these.
fn range_variable() -> Result<Option<RangeInclusive<u16>>> {
    let Some(text) = std::env::var_os("PORTLEASE_RANGE") else {
        return Ok(None);
    };
    let text = text.to_string_lossy();
    let digits = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse::<u16>().ok())
            .flatten()
    };
    match text
        .trim()
        .split_once('-')
        .map(|(low, high)| (digits(low.trim()), digits(high.trim())))
    {
        Some((Some(low @ 1..), Some(high))) if low <= high => Ok(Some(low..=high)),
        _ => Err(Error::bad_range_variable(&text)),
    }
}
