//! The ephemeral ranges that the kernel had during the soak. The supervisor changes the range if no
//! process outside the soak uses it.

use std::fs;
use std::ops::RangeInclusive;

use crate::clock::now;
use crate::ledger::Level;
use crate::place::{is_alone, is_root};

const SETTING: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Narrow ranges, which take turns with those of [`WIDE`]. They end below 49152: the library
/// prefers UDP ports from 49152 up, so it picks ports outside of these ranges. Of the three exact
/// ports that workers wait for, each range of both lists contains 40123 alone.
const NARROW: [RangeInclusive<u16>; 2] = [40000..=45000, 39000..=48000];

/// Wide ranges. They contain ports that were picked outside of a narrow range. The grade of such a
/// port falls.
const WIDE: [RangeInclusive<u16>; 4] = [32768..=60999, 25000..=61000, 36000..=58000, 21000..=55000];

/// A time in which the kernel may have had this range. Two periods overlap while the setting is
/// written.
#[derive(Debug)]
struct Period {
    from: u64,
    until: u64,
    range: RangeInclusive<u16>,
}

#[derive(Debug, Default)]
pub(crate) struct Ranges(Vec<Period>);

impl Ranges {
    /// Reads the current range, which also counts for all the time before.
    pub(crate) fn read() -> Ranges {
        let text = fs::read_to_string(SETTING).unwrap_or_default();
        let mut words = text.split_whitespace().map(str::parse::<u16>);
        match (words.next(), words.next()) {
            (Some(Ok(low)), Some(Ok(high))) => Ranges(vec![Period {
                from: 0,
                until: u64::MAX,
                range: low..=high,
            }]),
            _ => Ranges::default(),
        }
    }

    /// Whether the soak may change the range.
    pub(crate) fn are_own() -> bool {
        is_root() && is_alone()
    }

    /// Sets another range, picked at random. Returns whether it was set.
    pub(crate) fn change(&mut self) -> bool {
        let is_wide = self.0.len().is_multiple_of(2);
        let ranges: &[RangeInclusive<u16>] = if is_wide { &WIDE } else { &NARROW };
        let range = ranges[fastrand::usize(..ranges.len())].clone();
        let Some(last) = self.0.last_mut() else {
            return false;
        };
        let from = now();
        if fs::write(SETTING, format!("{} {}", range.start(), range.end())).is_err() {
            return false;
        }
        last.until = now();
        self.0.push(Period {
            from,
            until: u64::MAX,
            range,
        });
        true
    }

    /// The ranges during this time, the latest first.
    pub(crate) fn during(
        &self,
        from: u64,
        until: u64,
    ) -> impl Iterator<Item = &RangeInclusive<u16>> {
        let latest = self.0.iter().rev();
        latest
            .skip_while(move |period| period.from > until)
            .take_while(move |period| period.until >= from)
            .map(|period| &period.range)
    }

    /// Whether the kernel may have assigned the port by itself during this time. A client that got
    /// it may keep it for longer, and then the client's TIME_WAIT keeps it for 60 s.
    pub(crate) fn may_assign(&self, port: u16, from: u64, until: u64) -> bool {
        self.during(from, until).any(|range| range.contains(&port))
    }

    /// Whether a reservation that was picked with the grade `picked` can have the grade `read`.
    /// That grade was read during this time.
    pub(crate) fn allow(
        &self,
        (picked, read): (Level, Level),
        port: u16,
        (from, until): (u64, u64),
    ) -> bool {
        // A process outside of the soak may change the range.
        if !Ranges::are_own() {
            return true;
        }
        let expected = |range: &RangeInclusive<u16>| match picked {
            Level::Kernel => Level::Kernel,
            Level::Cooperative if !range.contains(&port) => Level::Cooperative,
            _ => Level::BestEffort,
        };
        self.during(from, until)
            .any(|range| read == expected(range))
    }
}
