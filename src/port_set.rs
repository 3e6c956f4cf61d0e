//! A set of port numbers.

use std::fmt;
use std::ops::RangeInclusive;

/// A flag for each number, up to the highest that is in.
#[derive(Clone, Default)]
pub(crate) struct PortSet(Vec<bool>);

impl PortSet {
    pub(crate) fn insert(&mut self, port: u16) {
        let at = usize::from(port);
        if self.0.len() <= at {
            self.0.resize(at + 1, false);
        }
        self.0[at] = true;
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        self.0.get(usize::from(port)).is_some_and(|is_in| *is_in)
    }

    /// Those of a range that are in, in ascending order.
    pub(crate) fn within(&self, range: RangeInclusive<u16>) -> impl Iterator<Item = u16> {
        let past = self.0.len().min(usize::from(*range.end()) + 1);
        (usize::from(*range.start())..past).filter(|at| self.0[*at]).map(|at| at as u16)
    }
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

/// As a set of numbers.
impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.within(0..=u16::MAX)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_in_once_and_nothing_else() {
        let empty = PortSet::default();
        assert!(!empty.contains(0) && !empty.contains(u16::MAX));
        let set: PortSet = [u16::MAX, 80, 443, 80].into_iter().collect();
        assert_eq!(set.within(0..=u16::MAX).collect::<Vec<_>>(), [80, 443, u16::MAX]);
        assert_eq!(set.within(80..=442).collect::<Vec<_>>(), [80]);
        assert_eq!(set.within(81..=442).next(), None);
        assert!(set.contains(80) && set.contains(u16::MAX) && !set.contains(81));
        assert_eq!(format!("{set:?}"), "{80, 443, 65535}");
    }
}
