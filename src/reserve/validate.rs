//! Turns [`ReserveOptions`] into a [`Request`]. Fails if an option or an environment variable is
//! invalid, or if the options contradict each other.

use std::ops::{Bound, RangeInclusive};

use super::options::ReserveOptions;
use super::stable_name;
use crate::acquire::Request;
use crate::inspect::leak;
use crate::model::endpoint::ParseEndpointError;
use crate::model::error::{Error, Result};
use crate::model::offsets::Offsets;
use crate::reservation::{FindLeak, OnLeak};

/// The ports that a call reserves together.
#[derive(Clone, Copy)]
enum Ports<'a> {
    /// This number of ports: first the exact ports of the caller, then ports that this crate picks.
    Many(usize),
    /// Ports at these distances from one base number.
    Offsets(&'a Offsets),
}

impl ReserveOptions {
    /// The request for `n` ports.
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
        let named = self.named_ports()?;
        if named.contains(&0) || self.prefer.contains(&0) {
            return Err(ParseEndpointError::PORT_ZERO.into());
        }
        if self.aligned == 0 {
            return Err(Error::aligned_to_zero());
        }
        if let (Some(port), Some(name)) = (named.first(), &self.name) {
            return Err(Error::exact_and_named(*port, name));
        }
        let range = self
            .range
            .map(|(low, high)| inclusive(low, high))
            .transpose()?;
        // `PORTLEASE_RANGE` limits the numbers that this crate chooses. Exact numbers are exempt,
        // because the caller chose them. Several ports at fixed distances are not exempt, because
        // the caller chose only their base number.
        let caller_chose_all = match ports {
            Ports::Many(n) => n <= named.len(),
            Ports::Offsets(offsets) => !named.is_empty() && offsets.count() == 1,
        };
        let env_range = match caller_chose_all {
            true => None,
            false => range_variable()?,
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
        let exact = match ports {
            Ports::Many(n) => {
                self.check_exact(&named, range.as_ref())?;
                if n > named.len() {
                    self.check_any(n - named.len(), allowed_or_all(&allowed))
                        .map_err(|error| error.limited_by(env_range.as_ref()))?;
                }
                named
            }
            Ports::Offsets(offsets) if named.is_empty() => {
                self.check_bases(offsets, allowed_or_all(&allowed))
                    .map_err(|error| error.limited_by(env_range.as_ref()))?;
                named
            }
            Ports::Offsets(offsets) => {
                self.exact_offsets(&named, offsets, range.as_ref(), env_range.as_ref())?
            }
        };
        // For ports at fixed distances, each preferred number is a base number. A base number stays
        // in the list if none of its ports is above 65535 or excluded. `block::reserve` checks the
        // range and `aligned`.
        let is_allowed = |port: &u16| match ports {
            Ports::Offsets(offsets) => offsets
                .ports(*port)
                .is_some_and(|mut ports| ports.all(|port| !self.exclude.contains(port))),
            Ports::Many(_) => {
                !self.exclude.contains(*port)
                    && port.is_multiple_of(self.aligned)
                    && env_range
                        .as_ref()
                        .is_none_or(|env_range| env_range.contains(port))
            }
        };
        let prefer = self.prefer.iter().copied().filter(is_allowed).collect();
        Ok(Request {
            protocols: self.protocols,
            server: self.server,
            prefer,
            exact,
            allowed,
            env_range,
            exclude: self.exclude,
            aligned: self.aligned,
            wait: self.wait,
            label: self.label,
            command: self.command,
            name: self.name.map(stable_name::resolve).transpose()?,
            on_leak: on_leak(self.strict)?.map(|action| (action, leak::find as FindLeak)),
            on_behalf_of: self.on_behalf_of,
            at,
        })
    }

    /// The exact numbers, ascending.
    fn named_ports(&self) -> Result<Vec<u16>> {
        let mut ports = self.ports.clone();
        if let (Some(port), [first, ..]) = (self.port, ports.as_slice()) {
            return Err(Error::port_and_ports(port, *first));
        }
        ports.extend(self.port);
        ports.sort_unstable();
        match ports.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::port_twice(pair[0])),
            None => Ok(ports),
        }
    }

    /// Checks that the options allow these exact numbers.
    fn check_exact(&self, ports: &[u16], range: Option<&RangeInclusive<u16>>) -> Result<()> {
        for port in ports {
            if !port.is_multiple_of(self.aligned) {
                return Err(Error::exact_port_not_aligned(*port, self.aligned));
            }
            self.check_not_ruled_out(*port, range)?;
        }
        Ok(())
    }

    fn check_not_ruled_out(&self, port: u16, range: Option<&RangeInclusive<u16>>) -> Result<()> {
        let outside = range.is_some_and(|range| !range.contains(&port));
        match outside || self.exclude.contains(port) {
            true => Err(Error::exact_port_ruled_out(port)),
            false => Ok(()),
        }
    }

    /// The ports at these distances from the one exact base number. Fails if there are several base
    /// numbers, if a port would exceed 65535, or if the options or `PORTLEASE_RANGE` rule out a
    /// port.
    fn exact_offsets(
        &self,
        named: &[u16],
        offsets: &Offsets,
        range: Option<&RangeInclusive<u16>>,
        env_range: Option<&RangeInclusive<u16>>,
    ) -> Result<Vec<u16>> {
        let &[base] = named else {
            return Err(Error::several_bases(named));
        };
        if !base.is_multiple_of(self.aligned) {
            return Err(Error::exact_port_not_aligned(base, self.aligned));
        }
        let ports: Vec<u16> = match offsets.ports(base) {
            Some(ports) => ports.collect(),
            None if offsets.is_block() => {
                return Err(Error::block_exceeds(offsets.count(), base));
            }
            None => return Err(Error::offsets_exceed(offsets, base)),
        };
        if let Some(env_range) = env_range
            && let Some(port) = ports.iter().find(|port| !env_range.contains(port))
        {
            return Err(Error::block_outside_firewall(*port, env_range));
        }
        for port in &ports {
            self.check_not_ruled_out(*port, range)?;
        }
        Ok(ports)
    }

    fn is_allowed(&self, port: u16, range: &RangeInclusive<u16>) -> bool {
        range.contains(&port) && !self.exclude.contains(port)
    }

    /// Checks that the range has at least `n` multiples of `aligned` that are not excluded.
    fn check_any(&self, n: usize, range: RangeInclusive<u16>) -> Result<()> {
        if !range.clone().any(|port| self.is_allowed(port, &range)) {
            return Err(Error::range_all_excluded(&range));
        }
        let counts =
            |port: &u16| self.is_allowed(*port, &range) && port.is_multiple_of(self.aligned);
        // Counts to `n` at most, because ranges are long.
        let count = range.clone().filter(counts).take(n).count();
        match (count < n, self.aligned) {
            (false, _) => Ok(()),
            (true, 1) => Err(Error::block_cannot_fit(n, &range)),
            (true, multiple) => Err(Error::too_few_multiples(n, count, multiple, &range)),
        }
    }

    /// Checks that at least one multiple of `aligned` can be the base number. For such a base
    /// number, every port at these distances is in the range and not excluded.
    fn check_bases(&self, offsets: &Offsets, range: RangeInclusive<u16>) -> Result<()> {
        let n = offsets.count();
        let mut allowed = range.clone().filter(|port| self.is_allowed(*port, &range));
        match allowed.by_ref().take(n).count() {
            0 => return Err(Error::range_all_excluded(&range)),
            count if count < n => return Err(Error::block_cannot_fit(n, &range)),
            _ => {}
        }
        let fits = |base: u16| {
            let ports = offsets.ports(base);
            ports.is_some_and(|mut ports| ports.all(|port| self.is_allowed(port, &range)))
        };
        match (0..=u16::MAX).step_by(self.aligned.into()).any(fits) {
            true => Ok(()),
            false => Err(Error::offsets_cannot_fit(offsets, self.aligned, &range)),
        }
    }
}

fn allowed_or_all(allowed: &Option<RangeInclusive<u16>>) -> RangeInclusive<u16> {
    allowed.clone().unwrap_or(1..=u16::MAX)
}

fn inclusive(low: Bound<u16>, high: Bound<u16>) -> Result<RangeInclusive<u16>> {
    let first = match low {
        Bound::Included(0) => return Err(ParseEndpointError::PORT_ZERO.into()),
        Bound::Included(low) => Some(low),
        Bound::Excluded(low) => low.checked_add(1),
        Bound::Unbounded => Some(1),
    };
    let last = match high {
        Bound::Included(high) => Some(high),
        Bound::Excluded(high) => high.checked_sub(1),
        Bound::Unbounded => Some(u16::MAX),
    };
    match (first, last) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(Error::empty_range(low, high)),
    }
}

/// The value of `PORTLEASE_RANGE`: the numbers that automatic picks and blocks (ports at fixed
/// distances) may use. Users set it, for example, if a firewall opens only these numbers.
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

/// What to do about a server that still runs when its reservation is dropped: the stricter of the
/// option `strict` and the variable `PORTLEASE_ON_LEAK`.
fn on_leak(strict: bool) -> Result<Option<OnLeak>> {
    let variable = std::env::var_os("PORTLEASE_ON_LEAK");
    let by_variable = match variable.as_ref().map(|text| text.to_str()) {
        None => None,
        Some(Some("warn")) => Some(OnLeak::Warn),
        Some(Some("panic")) => Some(OnLeak::Panic),
        Some(_) => {
            let text = variable.unwrap_or_default();
            return Err(Error::bad_leak_variable(&text.to_string_lossy()));
        }
    };
    Ok(if strict {
        Some(OnLeak::Panic)
    } else {
        by_variable
    })
}
