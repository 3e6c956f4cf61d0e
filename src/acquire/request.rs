//! [`Request`]: validated options of a reservation.

use std::borrow::Cow;
use std::io;
use std::iter;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::{AttemptError, kernel_choice};
use crate::claim::{self, Claim};
use crate::lease::self_test_mark;
use crate::model::endpoint::Protocol;
use crate::model::offsets::Offsets;
use crate::model::port_set::PortSet;
use crate::model::record::StableName;
use crate::model::server_kind::ServerKind;
use crate::ports::{self, EphemeralRange, Tier, services, stable_order};
use crate::reservation::{FindLeak, OnLeak};
use crate::retry::SELF_TEST_NUMBERS;

/// A stable name, and the seed from which the order of its numbers follows.
#[derive(Clone, Debug)]
pub(crate) struct NumberName {
    pub(crate) name: String,
    pub(crate) seed: u64,
    /// The number that the name stands for. Set only for ports at fixed distances. If `None`, the
    /// name stands for the first allowed number of the name's order.
    first_choice: Option<u16>,
}

impl NumberName {
    pub(crate) fn new(name: String, seed: u64) -> NumberName {
        NumberName {
            name,
            seed,
            first_choice: None,
        }
    }

    /// The finalizer of SplitMix64: every bit of the result depends on every bit of `seed`.
    pub(crate) fn mix(seed: u64) -> u64 {
        let seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        seed ^ (seed >> 31)
    }

    /// The name for the port with this index among several. Each of these ports has its own order
    /// of numbers.
    fn nth(&self, index: usize) -> NumberName {
        let seed = Self::mix(self.seed.wrapping_add(index as u64));
        NumberName::new(self.name.clone(), seed)
    }
}

/// Validated options: they do not contradict each other.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) protocols: &'static [Protocol],
    pub(crate) server: ServerKind,
    /// The exact numbers, ascending. The caller requested each number, or the base number from
    /// which all follow.
    pub(crate) exact: Vec<u16>,
    /// The numbers that the requested range and `PORTLEASE_RANGE` have in common. `None` if neither
    /// limits this request.
    pub(crate) allowed: Option<RangeInclusive<u16>>,
    /// `PORTLEASE_RANGE`, if it limits this request. `allowed` is within it.
    pub(crate) env_range: Option<RangeInclusive<u16>>,
    pub(crate) prefer: Vec<u16>,
    pub(crate) exclude: PortSet,
    /// The port must be a multiple of this number. For ports at fixed distances, only their base
    /// number must be.
    pub(crate) aligned: u16,
    pub(crate) wait: Duration,
    pub(crate) label: Option<String>,
    pub(crate) command: Option<String>,
    pub(crate) name: Option<NumberName>,
    /// What to do if a server still runs when the reservation is dropped, and how to find it.
    pub(crate) on_leak: Option<(OnLeak, FindLeak)>,
    pub(crate) on_behalf_of: Option<u32>,
    pub(crate) at: &'static std::panic::Location<'static>,
}

impl Request {
    /// Returns `true` if a claim (a bound socket) can keep a port of this protocol. This requires
    /// TCP, a server that can bind over a claim, and a kernel that passes the checks of
    /// [`claim::kernel_keeps_claims`].
    pub(super) fn claims(&self, protocol: Protocol) -> Result<bool, AttemptError> {
        self.claims_with(protocol, &mut None)
    }

    /// Like [`claims`](Self::claims). The call may have to test the kernel, and the test may claim
    /// a number that the kernel chose. `tested` gets this claim, so that a pick can use the claim.
    pub(super) fn claims_with(
        &self,
        protocol: Protocol,
        tested: &mut Option<Claim>,
    ) -> Result<bool, AttemptError> {
        let can_claim = protocol == Protocol::Tcp && self.server.binds_over_claims();
        Ok(can_claim && keeps_claims(tested)?)
    }

    /// Returns `true` if [`claims`](Self::claims) returns `true` for each protocol of the request.
    pub(super) fn claims_every_port(&self) -> Result<bool, AttemptError> {
        for protocol in self.protocols {
            if !self.claims(*protocol)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns `true` if an automatic pick may yield the number: a multiple of `aligned` that is
    /// not excluded, not 65535, and not refused by browsers. The function does not check the range
    /// `allowed`.
    ///
    /// Without a range (of the request or of `PORTLEASE_RANGE`), the result is `false` for a number
    /// of a common service. Exception: a number that the administrator withheld from the kernel (on
    /// Linux `ip_local_reserved_ports`), perhaps for the tests of the caller.
    pub(crate) fn admits(&self, port: u16) -> bool {
        port.is_multiple_of(self.aligned) && self.admits_further(port)
    }

    /// Returns `true` if an automatic pick may yield every port at these distances from this base
    /// number. [`admits`](Self::admits) lists the conditions for a port. But only the base number
    /// must be a multiple of `aligned`.
    pub(super) fn admits_base(&self, base: u16, offsets: &Offsets) -> bool {
        let Some(mut ports) = offsets.ports(base) else {
            return false;
        };
        base.is_multiple_of(self.aligned) && ports.all(|port| self.admits_further(port))
    }

    /// Checks the conditions of [`admits`](Self::admits), except that the port need not be a
    /// multiple of `aligned`.
    fn admits_further(&self, port: u16) -> bool {
        // If the settings cannot be read, the function assumes that the administrator withheld no
        // number from the kernel.
        let is_withheld =
            |port| EphemeralRange::cached().is_ok_and(|range| range.is_reserved(port));
        let is_left_to_service = || services::is_common(port) && !is_withheld(port);
        !self.exclude.contains(port)
            && !ports::is_blocked(port)
            && (self.allowed.is_some() || !is_left_to_service())
    }

    /// The request for one of several ports: the port with this index, counted from 0.
    pub(super) fn nth(&self, index: usize) -> Cow<'_, Request> {
        match &self.name {
            Some(name) if index > 0 => Cow::Owned(Request {
                name: Some(name.nth(index)),
                ..self.clone()
            }),
            _ => Cow::Borrowed(self),
        }
    }

    /// Returns the request with `first_choice` stored in its stable name. Without a stable name, or
    /// if `first_choice` is `None`, returns the request unchanged.
    pub(super) fn with_first_choice(&self, first_choice: Option<u16>) -> Cow<'_, Request> {
        match (&self.name, first_choice) {
            (Some(name), Some(_)) => Cow::Owned(Request {
                name: Some(NumberName {
                    first_choice,
                    ..name.clone()
                }),
                ..self.clone()
            }),
            _ => Cow::Borrowed(self),
        }
    }

    /// The requested name and its first choice, as the record of the lease stores them. `None`
    /// without a name, or if the first choice cannot be determined.
    pub(super) fn stable_name(&self) -> Option<StableName> {
        let NumberName {
            name, first_choice, ..
        } = self.name.as_ref()?;
        Some(StableName {
            name: name.clone(),
            first_choice: first_choice.or_else(|| {
                let range = EphemeralRange::cached().ok()?;
                self.numbers_of_name(range)?.next()
            })?,
        })
    }

    /// The allowed numbers in the order that the requested name determines; `None` without a name.
    /// Numbers that the kernel does not assign by itself come first.
    pub(super) fn numbers_of_name(
        &self,
        range: Arc<EphemeralRange>,
    ) -> Option<impl Iterator<Item = u16>> {
        let seed = self.name.as_ref()?.seed;
        let is_allowed = |port: u16| {
            let is_in_range = match &self.allowed {
                Some(allowed) => allowed.contains(&port),
                None => port >= ports::lowest(),
            };
            is_in_range && self.admits(port)
        };
        let tiers = [Tier::Outside, Tier::Withheld, Tier::Ephemeral].into_iter();
        Some(tiers.flat_map(move |tier| {
            let range = range.clone();
            stable_order(seed).filter(move |port| range.tier(*port) == tier && is_allowed(*port))
        }))
    }

    /// How many allowed multiples of `aligned` an automatic pick skips: 65535, and numbers that
    /// browsers refuse to connect to. `tried` is how many numbers the pick has tried. Without a
    /// range (of the request or of `PORTLEASE_RANGE`), the result is 0 as soon as the pick has
    /// tried a number.
    pub(super) fn blocked_in_range(&self, tried: usize, aligned: u16) -> usize {
        let all = (tried == 0).then_some(1..=u16::MAX);
        let range = self.allowed.clone().or(all).into_iter().flatten();
        range
            .filter(|port| ports::is_blocked(*port) && !self.exclude.contains(*port))
            .filter(|port| port.is_multiple_of(aligned))
            .count()
    }

    /// Whether the range `allowed` contains every port at these distances from this base number,
    /// and the base number is a multiple of `aligned`. Without a range, every port is allowed.
    pub(super) fn allows(&self, base: u16, offsets: &Offsets) -> bool {
        let allowed = self.allowed.as_ref();
        let is_allowed = |port| allowed.is_none_or(|allowed| allowed.contains(&port));
        let ports = offsets.ports(base);
        base.is_multiple_of(self.aligned) && ports.is_some_and(|mut all| all.all(is_allowed))
    }
}

/// Whether the kernel passes the checks of [`claim::kernel_keeps_claims`]. `tested` is the argument
/// of [`Request::claims_with`].
fn keeps_claims(tested: &mut Option<Claim>) -> Result<bool, AttemptError> {
    let test = || {
        if self_test_mark::exists() {
            *tested = claim::test_sandbox(test_numbers)?;
            return Ok(Ok(()));
        }
        let answer = claim::test_kernel(test_numbers)?;
        if answer.is_ok() {
            self_test_mark::make();
        }
        Ok(answer)
    };
    match claim::kernel_keeps_claims(test) {
        Ok(answer) => Ok(answer.is_ok()),
        Err(cause) => Err(AttemptError::System {
            act: "test whether a bound socket can reserve a port",
            port: None,
            cause,
        }),
    }
}

/// The numbers that the self-test of the kernel tries, in order. 0 stands for a number that the
/// kernel chooses. If the ephemeral range is small, 0 comes last, because an outgoing connection
/// may need the last free number.
fn test_numbers() -> io::Result<impl Iterator<Item = u16>> {
    let range = EphemeralRange::cached()?;
    let is_small = kernel_choice::is_small(&range);
    let first = (!is_small).then_some(0);
    let last = is_small.then_some(0);
    // Listing the non-ephemeral numbers takes 10 us. So the iterator lists these numbers only if
    // the test needs one of them.
    let others = iter::once(()).flat_map(move |()| range.non_ephemeral().take(SELF_TEST_NUMBERS));
    Ok(first.into_iter().chain(others).chain(last))
}
