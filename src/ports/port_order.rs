//! [`PortOrder`] yields port numbers in random order, without a list of them in memory.

use std::ops::RangeInclusive;
use std::vec;

use crate::model::port_set::PortSet;

/// Every number of each range once, one range after the other. The order within a range is random,
/// so that processes that start at the same time try the numbers in different orders.
pub(crate) fn shuffled(ranges: Vec<RangeInclusive<u16>>) -> PortOrder {
    let strided =
        |range: RangeInclusive<u16>| StridedRange::new(*range.start(), 1, range.len() as u32);
    PortOrder::new(
        ranges.into_iter().map(strided).collect(),
        PortSet::default(),
    )
}

/// The numbers of `ranges`, one range after the other, except those in `without`.
pub(crate) struct PortOrder {
    ranges: vec::IntoIter<StridedRange>,
    without: PortSet,
}

impl PortOrder {
    pub(super) fn new(ranges: Vec<StridedRange>, without: PortSet) -> PortOrder {
        PortOrder {
            ranges: ranges.into_iter(),
            without,
        }
    }
}

impl Iterator for PortOrder {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        loop {
            match self.ranges.as_mut_slice().first_mut()?.next() {
                Some(port) if self.without.contains(port) => {}
                Some(port) => return Some(port),
                None => _ = self.ranges.next(),
            }
        }
    }
}

/// The `count` numbers `low`, `low + step` and so on, each once, in random order. Each call of
/// `next` adds the same random stride to the index, modulo `count`. The stride and `count` are
/// coprime, so every index comes once.
pub(super) struct StridedRange {
    low: u16,
    step: u32,
    count: u32,
    at: u32,
    stride: u32,
    left: u32,
}

impl StridedRange {
    pub(super) fn new(low: u16, step: u32, count: u32) -> Self {
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
        let is_coprime = |stride: &u32| {
            let (mut a, mut b) = (count, *stride);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a == 1
        };
        let stride = std::iter::repeat_with(|| fastrand::u32(1..=count))
            .find(is_coprime)
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
        let ranges = vec![empty.clone(), 7..=7, empty];
        assert_eq!(shuffled(ranges).collect::<Vec<_>>(), [7]);
    }
}
