//! The pool: which numbers an automatic pick tries, and in which order.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};
use std::vec;

use parking_lot::Mutex;

use crate::model::endpoint::Protocol;

pub(crate) mod services;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
mod sysctl;
#[cfg(windows)]
mod windows;

#[cfg(any(target_os = "linux", target_os = "android"))]
use linux as system;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
use sysctl as system;
#[cfg(windows)]
use windows as system;

/// The numbers the kernel assigns by itself, in this process's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EphemeralRange {
    range: RangeInclusive<u16>,
    /// Numbers of the range that the administrator withheld.
    reserved: Ports,
}

/// Numbers as a system lists them, in ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    pub(crate) fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    /// `8080,9000-9010`, the kernel's own form for sets of ports.
    #[cfg(any(target_os = "linux", target_os = "android", test, fuzzing))]
    fn parse(text: &str) -> Option<Ports> {
        let number = |text: &str| text.trim().parse::<u16>().ok();
        let range = |item: &str| match item.split_once('-') {
            Some((low, high)) => {
                Some(number(low)?..=number(high)?).filter(|range| !range.is_empty())
            }
            None => number(item).map(|n| n..=n),
        };
        text.split(',')
            .filter(|item| !item.trim().is_empty())
            .map(range)
            .collect::<Option<_>>()
            .map(Ports)
    }
}

#[cfg(any(windows, test, fuzzing))]
impl Ports {
    /// What netsh says in any language: a line for each range, `     50000       50059     *`.
    fn parse_table(text: &str) -> Ports {
        let range = |line: &str| {
            let mut words = line.split_whitespace().map(|word| word.parse::<u16>().ok());
            Some(words.next()??..=words.next()??).filter(|range| !range.is_empty())
        };
        Ports(text.lines().filter_map(range).collect())
    }
}

/// The first registered and the first dynamic port (RFC 6335, section 6).
const REGISTERED_FROM: u16 = 1024;
const DYNAMIC_FROM: u16 = 49152;

impl EphemeralRange {
    /// As the kernel reports it now, or, where asking takes a program, as it did when this process first asked.
    pub(crate) fn read() -> EphemeralRange {
        system::ephemeral()
    }

    /// As a kernel would report it that assigns this range, without what it lists as reserved.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn reported(range: RangeInclusive<u16>, reserved: &str) -> EphemeralRange {
        EphemeralRange {
            range,
            reserved: Ports::parse(reserved).unwrap_or_default(),
        }
    }

    pub(crate) fn range(&self) -> RangeInclusive<u16> {
        self.range.clone()
    }

    /// Whether the kernel assigns the number to nobody by itself.
    pub(crate) fn is_non_ephemeral(&self, port: u16) -> bool {
        !self.range.contains(&port) || self.reserved.contains(port)
    }

    /// The quiet numbers in the order of preference, each once: of IANA's dynamic range (RFC 6335), then registered
    /// ones, then those that the administrator withheld from the kernel, perhaps for a service.
    pub(crate) fn non_ephemeral(&self) -> PortOrder {
        let registered = unprivileged_from().max(REGISTERED_FROM)..=DYNAMIC_FROM - 1;
        let withheld = self
            .reserved
            .0
            .iter()
            .map(|ports| overlap(ports, &self.range));
        shuffled(
            [
                self.outside(DYNAMIC_FROM..=u16::MAX),
                self.outside(registered),
                withheld.collect(),
            ]
            .concat(),
        )
    }

    /// What of a range is not the kernel's, the higher part first.
    fn outside(&self, range: RangeInclusive<u16>) -> Vec<RangeInclusive<u16>> {
        let above = self
            .range
            .end()
            .checked_add(1)
            .map(|next| overlap(&(next..=u16::MAX), &range));
        let below = self
            .range
            .start()
            .checked_sub(1)
            .map(|last| overlap(&(0..=last), &range));
        above
            .into_iter()
            .chain(below)
            .filter(|range| !range.is_empty())
            .collect()
    }

    /// The ranges in which to look for consecutive numbers, in the order of preference.
    pub(crate) fn block_ranges(&self) -> Vec<RangeInclusive<u16>> {
        let lowest = unprivileged_from().max(REGISTERED_FROM);
        let mut ranges = self.outside(lowest..=u16::MAX);
        ranges.push(self.range.clone());
        ranges
    }

    pub(crate) fn is_reserved(&self, port: u16) -> bool {
        self.reserved.contains(port)
    }

    /// Every number of the range but the reserved ones, once, in random order: first those of the low end's parity.
    ///
    /// `bind(…, 0)` searches the other parity first, so these are free when that one is used up.
    pub(crate) fn draws(&self) -> PortOrder {
        let low = *self.range.start();
        let count = u32::from(*self.range.end() - low) + 1;
        let first = StridedRange::new(low, 2, count.div_ceil(2));
        let second = StridedRange::new(low.saturating_add(1), 2, count / 2);
        PortOrder {
            spans: vec![first, second].into_iter(),
            without: self.reserved.clone(),
        }
    }

    /// How many numbers an automatic pick leaves, so that outgoing connections find one too.
    pub(crate) fn spare(&self) -> usize {
        (self.range.len() / 256).clamp(2, 16)
    }
}

pub(crate) use system::{is_excluded, unprivileged_from};

fn overlap(one: &RangeInclusive<u16>, other: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    *one.start().max(other.start())..=*one.end().min(other.end())
}

/// `32768\t60999`, or the same on two lines.
#[cfg(any(unix, test, fuzzing))]
fn parse_pair(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(|n| n.parse::<u16>().ok());
    let range = numbers.next()??..=numbers.next()??;
    (!range.is_empty()).then_some(range)
}

/// What netsh says in any language: `Start Port : 49152` on a line, and `Number of Ports : 16384` on a later one.
#[cfg(any(windows, test, fuzzing))]
fn parse_start_and_count(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text
        .lines()
        .filter_map(|line| line.split_whitespace().next_back()?.parse::<u16>().ok());
    let (start, count) = (numbers.next()?, numbers.next()?);
    Some(start..=start.checked_add(count.checked_sub(1)?)?)
}

/// Every range that any of the ways to read a text finds in it.
#[cfg(any(test, fuzzing))]
pub(crate) fn settings(text: &str) -> Vec<RangeInclusive<u16>> {
    let sets = [
        Ports::parse(text).unwrap_or_default(),
        Ports::parse_table(text),
    ];
    let ranges = [parse_pair(text), parse_start_and_count(text)];
    sets.into_iter()
        .flat_map(|set| set.0)
        .chain(ranges.into_iter().flatten())
        .collect()
}

/// Every number of each range once, in random order, so that processes that start together do not walk in step.
pub(crate) fn shuffled(ranges: Vec<RangeInclusive<u16>>) -> PortOrder {
    let span =
        |range: RangeInclusive<u16>| StridedRange::new(*range.start(), 1, range.len() as u32);
    let spans: Vec<StridedRange> = ranges.into_iter().map(span).collect();
    PortOrder {
        spans: spans.into_iter(),
        without: Ports::default(),
    }
}

/// Numbers to try, span after span.
pub(crate) struct PortOrder {
    spans: vec::IntoIter<StridedRange>,
    without: Ports,
}

impl Iterator for PortOrder {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        loop {
            match self.spans.as_mut_slice().first_mut()?.next() {
                Some(port) if self.without.contains(port) => {}
                Some(port) => return Some(port),
                None => _ = self.spans.next(),
            }
        }
    }
}

/// So many numbers from the lowest, a step apart, each once, by a random stride: no memory, and no set-up that grows
/// with the count.
struct StridedRange {
    low: u16,
    step: u32,
    count: u32,
    at: u32,
    stride: u32,
    left: u32,
}

impl StridedRange {
    fn new(low: u16, step: u32, count: u32) -> Self {
        if count == 0 {
            return StridedRange {
                low,
                step,
                count,
                at: 0,
                stride: 0,
                left: 0,
            };
        }
        let coprime = |stride: &u32| {
            let (mut a, mut b) = (count, *stride);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a == 1
        };
        let stride = std::iter::repeat_with(|| fastrand::u32(1..=count))
            .find(coprime)
            .unwrap_or(1);
        StridedRange {
            low,
            step,
            count,
            at: fastrand::u32(0..count),
            stride,
            left: count,
        }
    }

    fn next(&mut self) -> Option<u16> {
        self.left = self.left.checked_sub(1)?;
        self.at = (self.at + self.stride) % self.count;
        Some(self.low + (self.at * self.step) as u16)
    }
}

/// Whether the half of the ephemeral range that `bind(…, 0)` searches first is used up.
///
/// From there on each such bind walks that half in vain, about 1.5 ms of it, and slows down everybody else's: for a
/// while, draw numbers of the other parity instead. What one bind showed is remembered for the whole process.
#[derive(Debug, Default)]
pub(crate) struct ParityExhaustion(Mutex<ParitySigns>);

#[derive(Debug, Default)]
struct ParitySigns {
    believed_until: Option<Instant>,
    /// The last bind took long, which on a busy machine may be no more than bad luck.
    slow: bool,
}

impl ParityExhaustion {
    /// The process's own.
    pub(crate) fn of_this_process() -> &'static ParityExhaustion {
        static CROWDING: ParityExhaustion =
            ParityExhaustion(parking_lot::const_mutex(ParitySigns {
                believed_until: None,
                slow: false,
            }));
        &CROWDING
    }

    /// How long it is believed: at 1.5 ms a look, looking again costs little.
    const BELIEVED: Duration = Duration::from_secs(1);

    /// Some twenty times what a bind takes on an empty machine.
    const SLOW: Duration = Duration::from_micros(60);

    pub(crate) fn is_on(&self) -> bool {
        self.0
            .lock()
            .believed_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Takes note of what the kernel chose, and how long it took.
    pub(crate) fn note(&self, range: &RangeInclusive<u16>, port: u16, took: Duration) {
        let mut signs = self.0.lock();
        let second_choice = range.contains(&port) && (port - range.start()).is_multiple_of(2);
        let slow = took > Self::SLOW;
        if second_choice || slow && signs.slow {
            signs.believed_until = Some(Instant::now() + Self::BELIEVED);
        }
        signs.slow = slow;
    }

    pub(crate) fn note_exhausted(&self) {
        self.0.lock().believed_until = Some(Instant::now() + Self::BELIEVED);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_number_of_a_range_comes_once() {
        for range in [1..=1, 7..=8, 20000..=20999, 1..=u16::MAX] {
            let drawn: Vec<u16> = shuffled(vec![range.clone()]).collect();
            assert_eq!(drawn.len(), range.len());
            assert!(drawn.iter().all(|n| range.contains(n)));
            assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), drawn.len());
        }
        #[expect(clippy::reversed_empty_ranges, reason = "an empty range is the point")]
        let empty = 9..=3;
        assert_eq!(
            shuffled(vec![empty.clone(), 7..=7, empty]).collect::<Vec<_>>(),
            [7]
        );
    }

    #[test]
    fn draws_take_the_low_ends_parity_first_and_leave_out_what_is_reserved() {
        for range in [32768..=60999, 40000..=40015, 40001..=40015, 5..=5] {
            let pool = EphemeralRange {
                range: range.clone(),
                reserved: Ports(vec![40004..=40005]),
            };
            let drawn: Vec<u16> = pool.draws().collect();
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
    fn quiet_numbers_come_dynamic_first_and_never_from_what_the_kernel_assigns() {
        let pool = EphemeralRange {
            range: 32768..=60999,
            reserved: Ports(vec![40004..=40005]),
        };
        let non_ephemeral: Vec<u16> = pool.non_ephemeral().collect();
        assert!(
            non_ephemeral
                .iter()
                .all(|port| pool.is_non_ephemeral(*port))
        );
        assert_eq!(
            non_ephemeral.iter().collect::<BTreeSet<_>>().len(),
            non_ephemeral.len()
        );
        assert!(
            non_ephemeral[..65535 - 60999]
                .iter()
                .all(|port| *port > 60999)
        );
        assert!(
            non_ephemeral[non_ephemeral.len() - 2..]
                .iter()
                .all(|port| (40004..=40005).contains(port))
        );
        let tuned = EphemeralRange {
            range: 1024..=65535,
            reserved: Ports::default(),
        };
        assert_eq!(tuned.non_ephemeral().count(), 0);
        assert_eq!(tuned.block_ranges(), [1024..=65535]);
        assert_eq!(
            pool.block_ranges(),
            [61000..=65535, 1024..=32767, 32768..=60999]
        );
    }

    #[test]
    fn the_kernels_forms_are_read() {
        assert_eq!(parse_pair("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse_pair("60999 32768"), None);
        assert_eq!(parse_pair("x"), None);
        let netsh = "\r\nProtocol tcp Dynamic Port Range\r\n-------\r\nStart Port      : 49152\r\n\
                     Number of Ports : 16384\r\n";
        assert_eq!(parse_start_and_count(netsh), Some(49152..=65535));
        assert_eq!(
            parse_start_and_count("Startport : 1025\nAnzahl : 64511\n"),
            Some(1025..=65535)
        );
        let excluded = "\r\nProtocol tcp Port Exclusion Ranges\r\n\r\nStart Port    End Port\r\n----------    --------\r\n\
                        \x20     5357        5357\r\n     50000       50059     *\r\n\r\n* - Administered port exclusions.";
        assert_eq!(
            Ports::parse_table(excluded),
            Ports(vec![5357..=5357, 50000..=50059])
        );
        for odd in ["", "Start : 49152", "a : 60000\nb : 6000", "a : 1\nb : 0"] {
            assert_eq!(parse_start_and_count(odd), None, "{odd:?}");
        }
        assert_eq!(Ports::parse("\n"), Some(Ports::default()));
        assert_eq!(
            Ports::parse("8080,9000-9010\n"),
            Some(Ports(vec![8080..=8080, 9000..=9010]))
        );
        assert_eq!(Ports::parse("8080,x"), None);
        assert_eq!(Ports::parse("9010-9000"), None);
    }

    #[test]
    fn crowding_is_told_by_the_parity_and_by_two_slow_binds_in_a_row() {
        let (quick, slow) = (Duration::from_micros(3), Duration::from_millis(2));
        let noted = |binds: &[(u16, Duration)]| {
            let parity = ParityExhaustion::default();
            binds
                .iter()
                .for_each(|(port, took)| parity.note(&(32768..=60999), *port, *took));
            parity.is_on()
        };
        assert!(!noted(&[(40001, quick), (40003, quick)]));
        assert!(noted(&[(40000, quick)]));
        assert!(
            !noted(&[(40001, slow), (40003, quick), (40005, slow)]),
            "a busy machine"
        );
        assert!(noted(&[(40001, slow), (40003, slow)]));
    }
}
