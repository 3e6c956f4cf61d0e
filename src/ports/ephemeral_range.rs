//! [`EphemeralRange`]: the numbers from which the kernel chooses for a `bind(…, 0)` or an outgoing
//! connection.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use super::port_order::{PortOrder, StridedRange, shuffled};
use super::{DYNAMIC_FROM, system};
use crate::model::port_set::PortSet;
use crate::namespace::PerNamespace;
use crate::retry::RANGE_VALID_FOR;

/// The first registered port (RFC 6335, section 6).
const REGISTERED_FROM: u16 = 1024;

/// The lowest number that an automatic pick takes outside the ephemeral range. Exceptions: a range
/// that the caller or `PORTLEASE_RANGE` sets can start lower, and a preferred number can be lower.
pub(crate) fn lowest() -> u16 {
    system::unprivileged_from().max(REGISTERED_FROM)
}

/// The numbers from which the kernel chooses for a `bind(…, 0)` or an outgoing connection, in one
/// network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EphemeralRange {
    range: RangeInclusive<u16>,
    /// Numbers that the administrator withheld from the kernel (on Linux
    /// `ip_local_reserved_ports`). They can lie outside `range`.
    reserved: PortSet,
    /// `false` if the system reported no range. `range` is then a default.
    reported: bool,
}

static CACHED: PerNamespace<Cached> = PerNamespace::new();

#[derive(Debug)]
struct Cached {
    range: Arc<EphemeralRange>,
    read_at: Instant,
}

impl Cached {
    fn read() -> io::Result<Cached> {
        let read_at = Instant::now();
        Ok(Cached {
            range: Arc::new(EphemeralRange::read()?),
            read_at,
        })
    }
}

impl EphemeralRange {
    /// The range that the system reported, or `default` if it reported none.
    pub(super) fn new(
        reported: Option<RangeInclusive<u16>>,
        default: RangeInclusive<u16>,
        reserved: PortSet,
    ) -> EphemeralRange {
        EphemeralRange {
            reported: reported.is_some(),
            range: reported.unwrap_or(default),
            reserved,
        }
    }

    /// Reads the range. On Linux each call reads it from `/proc`. On other systems the process runs
    /// a program (sysctl(8), netsh) that reports the range, and keeps the answer for later calls.
    ///
    /// A lack of descriptors or memory is an error, and the next call reads again. If the system
    /// reports no range for another reason, the result is a default range.
    pub(crate) fn read() -> io::Result<EphemeralRange> {
        system::ephemeral()
    }

    /// The cached range of this network namespace. If none is cached, the call reads it.
    pub(crate) fn cached() -> io::Result<Arc<EphemeralRange>> {
        Ok(CACHED.get_or_try_init(Cached::read)?.range.clone())
    }

    /// Reads the range, and caches it for [`cached`](Self::cached).
    pub(crate) fn refreshed() -> io::Result<Arc<EphemeralRange>> {
        Ok(CACHED.set(Cached::read()?).range.clone())
    }

    /// The cached range. If none is cached, or if it is older than [`RANGE_VALID_FOR`], the call
    /// reads the range.
    pub(crate) fn recent() -> io::Result<Arc<EphemeralRange>> {
        match CACHED.get() {
            Some(cached) if cached.read_at.elapsed() < RANGE_VALID_FOR => Ok(cached.range.clone()),
            _ => Self::refreshed(),
        }
    }

    /// The cached range. `port` is a number that the kernel chose. If `port` is outside the cached
    /// range, the administrator may have changed the range, so the call reads the range again.
    pub(crate) fn cached_with(port: u16) -> io::Result<Arc<EphemeralRange>> {
        let known = Self::cached()?;
        if known.range.contains(&port) {
            return Ok(known);
        }
        Self::refreshed()
    }

    /// For tests: the range that a kernel with these settings would report.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn reported(range: RangeInclusive<u16>, reserved: &str) -> EphemeralRange {
        let reserved = super::settings::parse_list(reserved).unwrap_or_default();
        EphemeralRange::new(Some(range.clone()), range, reserved)
    }

    pub(crate) fn range(&self) -> RangeInclusive<u16> {
        self.range.clone()
    }

    /// Returns `false` if the range is a default, because the system reported none.
    pub(crate) fn is_reported(&self) -> bool {
        self.reported
    }

    /// Whether the kernel certainly never chooses this number. `false` for every number if the
    /// system did not report its range.
    pub(crate) fn surely_excludes(&self, port: u16) -> bool {
        self.reported && self.is_non_ephemeral(port)
    }

    /// Whether the number is outside `range`, or the administrator withheld it from the kernel. If
    /// the system reported `range`, the kernel never chooses such a number. Otherwise `range` is a
    /// default, and the kernel may use another range.
    pub(crate) fn is_non_ephemeral(&self, port: u16) -> bool {
        !self.range.contains(&port) || self.reserved.contains(port)
    }

    /// Non-ephemeral ports, each once, in the order in which a pick tries them. The ports of IANA's
    /// dynamic range (RFC 6335) come first, then the registered ports from [`lowest`] on. Last come
    /// the ports of the ephemeral range that the administrator withheld from the kernel, because
    /// they may be meant for a service.
    pub(crate) fn non_ephemeral(&self) -> PortOrder {
        let registered = lowest()..=DYNAMIC_FROM - 1;
        let withheld = self.reserved.ranges_within(self.range.clone());
        shuffled(
            [
                self.outside(DYNAMIC_FROM..=u16::MAX),
                self.outside(registered),
                withheld,
            ]
            .concat(),
        )
    }

    pub(crate) fn tier(&self, port: u16) -> Tier {
        match (self.reserved.contains(port), self.range.contains(&port)) {
            (true, _) => Tier::Withheld,
            (false, false) => Tier::Outside,
            (false, true) => Tier::Ephemeral,
        }
    }

    /// The parts of `range` outside the ephemeral range, the higher part first.
    fn outside(&self, range: RangeInclusive<u16>) -> Vec<RangeInclusive<u16>> {
        let above = self.range.end().checked_add(1);
        let above = above.map(|next| overlap(&(next..=u16::MAX), &range));
        let below = self.range.start().checked_sub(1);
        let below = below.map(|last| overlap(&(0..=last), &range));
        let parts = above.into_iter().chain(below);
        parts.filter(|range| !range.is_empty()).collect()
    }

    /// The ranges from [`lowest`] on that are outside the ephemeral range, the higher one first.
    pub(crate) fn outer_ranges(&self) -> Vec<RangeInclusive<u16>> {
        self.outside(lowest()..=u16::MAX)
    }

    /// The numbers that the administrator withheld from the kernel (on Linux
    /// `ip_local_reserved_ports`), inside and outside the ephemeral range.
    pub(crate) fn withheld(&self) -> Vec<RangeInclusive<u16>> {
        self.reserved.ranges_within(0..=u16::MAX)
    }

    /// Whether the administrator withheld the number from the kernel.
    pub(crate) fn is_reserved(&self, port: u16) -> bool {
        self.reserved.contains(port)
    }

    /// The numbers of the range that are not withheld, each once. The numbers with the parity of
    /// the range's low end come first, because a TCP `bind(…, 0)` on Linux uses up the other parity
    /// first. The order within each parity is random.
    pub(crate) fn draws(&self) -> PortOrder {
        let low = *self.range.start();
        let count = u32::from(*self.range.end() - low) + 1;
        let first = StridedRange::new(low, 2, count.div_ceil(2));
        let second = StridedRange::new(low.saturating_add(1), 2, count / 2);
        PortOrder::new(vec![first, second], self.reserved.clone())
    }

    /// How many numbers of the range an automatic pick leaves free for outgoing connections.
    pub(crate) fn spare(&self) -> usize {
        (self.range.len() / 256).clamp(2, 16)
    }
}

/// Classes of numbers, the preferred class first. The search for the number of a stable name tries
/// the classes in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// Outside the ephemeral range, and not withheld from the kernel by the administrator.
    Outside,
    /// Withheld from the kernel by the administrator, perhaps for a service.
    Withheld,
    /// In the ephemeral range, and not withheld. The kernel can assign the number to any socket.
    Ephemeral,
}

fn overlap(one: &RangeInclusive<u16>, other: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    *one.start().max(other.start())..=*one.end().min(other.end())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn draws_begin_with_the_low_ends_parity_and_omit_reserved_numbers() {
        for range in [32768..=60999, 40000..=40015, 40001..=40015, 5..=5] {
            let reported = EphemeralRange::reported(range.clone(), "40004-40005");
            let drawn: Vec<u16> = reported.draws().collect();
            let expected: BTreeSet<u16> = range
                .clone()
                .filter(|n| !(40004..=40005).contains(n))
                .collect();
            assert_eq!(drawn.iter().copied().collect::<BTreeSet<_>>(), expected);
            assert_eq!(drawn.len(), expected.len());
            let parities: Vec<u16> = drawn.iter().map(|n| (n - range.start()) % 2).collect();
            assert!(parities.is_sorted(), "{range:?}: {parities:?}");
        }
    }

    #[test]
    fn non_ephemeral_ports_come_dynamic_first_and_are_never_assigned_by_the_kernel() {
        let reported = EphemeralRange::reported(32768..=60999, "40004-40005");
        let numbers: Vec<u16> = reported.non_ephemeral().collect();
        assert!(numbers.iter().all(|port| reported.is_non_ephemeral(*port)));
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
        assert!(numbers[..65535 - 60999].iter().all(|port| *port > 60999));
        let last = &numbers[numbers.len() - 2..];
        assert!(last.iter().all(|port| (40004..=40005).contains(port)));
        assert_eq!(reported.outer_ranges(), [61000..=65535, 1024..=32767]);
        let whole = EphemeralRange::reported(1024..=65535, "");
        assert_eq!(whole.non_ephemeral().count(), 0);
        assert_eq!(whole.outer_ranges(), []);
    }
}
