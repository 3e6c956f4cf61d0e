//! [`Offsets`]: the distances of several ports from one base number.

use std::fmt;

/// The distances of several ports from their base number, ascending and distinct. A block of
/// consecutive ports has the distances 0, 1, 2 and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offsets(Vec<u16>);

impl Offsets {
    /// The distances 0 to `n - 1` of a block of `n` ports. `None` if `n` is 0 or above 65536.
    pub(crate) fn of_block(n: usize) -> Option<Offsets> {
        let last = u16::try_from(n.checked_sub(1)?).ok()?;
        Some(Offsets((0..=last).collect()))
    }

    /// Sorts the distances. The error is a distance that occurs twice.
    pub(crate) fn of(mut distances: Vec<u16>) -> Result<Offsets, u16> {
        distances.sort_unstable();
        match distances.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(pair[0]),
            None => Ok(Offsets(distances)),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn least(&self) -> u16 {
        self.0.first().copied().unwrap_or(0)
    }

    pub(crate) fn greatest(&self) -> u16 {
        self.0.last().copied().unwrap_or(0)
    }

    /// The length of the range from the lowest port to the highest, both included.
    pub(crate) fn span(&self) -> usize {
        usize::from(self.greatest() - self.least()) + 1
    }

    /// The ports at these distances from `base`, ascending. `None` if a port would be above 65535.
    pub(crate) fn ports(&self, base: u16) -> Option<impl Iterator<Item = u16> + '_> {
        base.checked_add(self.greatest())?;
        Some(self.0.iter().map(move |distance| base + distance))
    }

    pub(crate) fn is_block(&self) -> bool {
        usize::from(self.greatest()) + 1 == self.count()
    }
}

/// Prints text such as `4 consecutive ports` or `ports at the offsets 0, 10000`.
impl fmt::Display for Offsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_block() {
            return write!(f, "{} consecutive ports", self.count());
        }
        let distances: Vec<String> = self.0.iter().map(u16::to_string).collect();
        write!(f, "ports at the offsets {}", distances.join(", "))
    }
}
