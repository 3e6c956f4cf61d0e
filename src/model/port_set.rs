//! [`PortSet`]: a set of port numbers.

use std::fmt;
use std::ops::RangeInclusive;

/// A set of port numbers: one bit for each number, up to the highest number in the set.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct PortSet(Vec<u64>);

impl PortSet {
    pub(crate) fn insert(&mut self, port: u16) {
        let (word, bit) = word_and_bit(port);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit;
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        let (word, bit) = word_and_bit(port);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// The members of the set within `range`, in ascending order.
    pub(crate) fn within(&self, range: RangeInclusive<u16>) -> impl Iterator<Item = u16> {
        range
            .take_while(|port| word_and_bit(*port).0 < self.0.len())
            .filter(|port| self.contains(*port))
    }

    /// The members of the set within `range`, as ranges of consecutive numbers in ascending order.
    pub(crate) fn ranges_within(&self, range: RangeInclusive<u16>) -> Vec<RangeInclusive<u16>> {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for port in self.within(range) {
            match ranges.last_mut() {
                Some(last) if last.end().checked_add(1) == Some(port) => {
                    *last = *last.start()..=port;
                }
                _ => ranges.push(port..=port),
            }
        }
        ranges
    }
}

fn word_and_bit(port: u16) -> (usize, u64) {
    (usize::from(port / 64), 1 << (port % 64))
}

impl Extend<u16> for PortSet {
    fn extend<T: IntoIterator<Item = u16>>(&mut self, ports: T) {
        ports.into_iter().for_each(|port| self.insert(port));
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<T: IntoIterator<Item = u16>>(ports: T) -> Self {
        let mut set = PortSet::default();
        set.extend(ports);
        set
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.within(0..=u16::MAX)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_contains_exactly_the_inserted_numbers_each_once() {
        let empty = PortSet::default();
        assert!(!empty.contains(0) && !empty.contains(u16::MAX));
        let set: PortSet = [u16::MAX, 80, 443, 80].into_iter().collect();
        assert_eq!(
            set.within(0..=u16::MAX).collect::<Vec<_>>(),
            [80, 443, u16::MAX]
        );
        assert_eq!(set.within(80..=442).collect::<Vec<_>>(), [80]);
        assert_eq!(set.within(81..=442).next(), None);
        assert!(set.contains(80) && set.contains(u16::MAX) && !set.contains(81));
        assert_eq!(format!("{set:?}"), "{80, 443, 65535}");
    }
}
