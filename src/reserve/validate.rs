//! Validation: turns [`ReserveOptions`] into a [`Request`], or reports a contradiction.

use std::ops::{Bound, RangeInclusive};

use super::options::ReserveOptions;
use crate::acquire::Request;
use crate::model::endpoint::ParseEndpointError;
use crate::model::error::{Error, Result};

impl ReserveOptions {
    /// The request for `n` ports, or an error if the options contradict each other.
    #[track_caller]
    pub(super) fn validate(self, n: usize) -> Result<Request> {
        let at = std::panic::Location::caller();
        if self.port == Some(0) || self.prefer.contains(&0) {
            return Err(ParseEndpointError::PORT_ZERO.into());
        }
        let range = self
            .range
            .map(|(low, high)| inclusive(low, high))
            .transpose()?;
        // `PORTLEASE_RANGE` limits the numbers that this crate chooses. A single exact number is
        // exempt, because the caller chose it. A block is not: the caller chose only its first
        // number.
        let env_range = match self.port {
            Some(_) if n == 1 => None,
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
        let allowed_count = |range: &RangeInclusive<u16>| {
            // Counts to `n` at most, because ranges are long.
            let admitted = range.clone().filter(|port| !self.exclude.contains(*port));
            admitted.take(n).count()
        };
        if let Some(port) = self.port {
            if n > usize::from(u16::MAX - port) + 1 {
                return Err(Error::block_cannot_fit(n, &(port..=u16::MAX)));
            }
            // The variable and the options apply to every number of a block, so each is checked.
            let mut numbers = port..=port + (n - 1) as u16;
            if let Some(env_range) = &env_range
                && let Some(number) = numbers.clone().find(|number| !env_range.contains(number))
            {
                return Err(Error::block_outside_firewall(number, env_range));
            }
            let is_ruled_out = |number: &u16| {
                let outside = allowed
                    .as_ref()
                    .is_some_and(|range| !range.contains(number));
                outside || self.exclude.contains(*number)
            };
            if let Some(number) = numbers.find(is_ruled_out) {
                return Err(Error::exact_port_ruled_out(number));
            }
        } else {
            let range = allowed.clone().unwrap_or(1..=u16::MAX);
            match allowed_count(&range) {
                0 => return Err(Error::range_all_excluded(&range)),
                count if count < n => return Err(Error::block_cannot_fit(n, &range)),
                _ => {}
            }
        }
        let prefer = self.prefer.into_iter().filter(|port| {
            !self.exclude.contains(*port)
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
            wait: self.wait,
            label: self.label,
            command: self.command,
            on_behalf_of: self.on_behalf_of,
            at,
        })
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
