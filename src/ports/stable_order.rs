//! [`stable_order`]: every number once, in an order that depends on a seed alone.

/// Returns every number from 0 to 65535 once. The same seed always leads to the same order, on
/// every system and in every release. Two orders that begin with the same number nearly always
/// continue differently.
pub(crate) fn stable_order(seed: u64) -> impl Iterator<Item = u16> {
    let first = seed as u16;
    // An odd stride visits every number before it returns to the first.
    let stride = (seed >> 16) as u16 | 1;
    (0..=u16::MAX).map(move |step| first.wrapping_add(step.wrapping_mul(stride)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_order_has_every_number_once_and_never_changes() {
        for seed in [0, 1, 0x1234_5678_9abc_def0, u64::MAX] {
            let numbers: BTreeSet<u16> = stable_order(seed).collect();
            assert_eq!(numbers.len(), 65536, "{seed:#x}");
        }
        let first: Vec<u16> = stable_order(0x1234_5678_9abc_def0).take(3).collect();
        assert_eq!(first, [0xdef0, 0x79ad, 0x146a]);
    }
}
