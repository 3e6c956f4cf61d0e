//! [`ParityExhaustion`]: whether the half of the ephemeral range that `bind(…, 0)` searches first
//! is used up.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::namespace::PerNamespace;
use crate::retry::{PARITY_VALID_FOR, SLOW_BIND};

/// Notes whether one half of the ephemeral range is used up: the even or the odd numbers, whichever
/// `bind(…, 0)` searches first.
///
/// While that half is used up, each `bind(…, 0)` walks it without success, which takes about
/// 1.5 ms. So once a bind shows this, the process chooses numbers itself for [`PARITY_VALID_FOR`].
/// The threads of the process in one network namespace share one value.
#[derive(Debug, Default)]
pub(crate) struct ParityExhaustion(Mutex<Signs>);

#[derive(Debug, Default)]
struct Signs {
    exhausted_until: Option<Instant>,
    /// `true` if the kernel chose a number of the parity (even or odd) that it searches last, or
    /// found no number. `false` if only slow binds suggest that the parity searched first is used
    /// up.
    proven: bool,
    /// Whether the last bind was slow. Two slow binds in a row count as exhaustion. One slow
    /// bind does not, because the machine may be busy.
    slow: bool,
}

impl ParityExhaustion {
    pub(crate) fn of_this_namespace() -> Arc<ParityExhaustion> {
        static OF_NAMESPACE: PerNamespace<ParityExhaustion> = PerNamespace::new();
        OF_NAMESPACE.get_or_init(ParityExhaustion::default)
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        let until = self.0.lock().exhausted_until;
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether the numbers that `bind(…, 0)` searches first (all even or all odd) are certainly
    /// used up. `false` if only slow binds suggest it.
    pub(crate) fn is_proven(&self) -> bool {
        self.is_exhausted() && self.0.lock().proven
    }

    /// Notes one `bind(…, 0)`. `range` is the ephemeral range, `port` the number that the kernel
    /// chose, and `took` the duration of the bind.
    pub(crate) fn note(&self, range: &RangeInclusive<u16>, port: u16, took: Duration) {
        let mut signs = self.0.lock();
        let second_choice = range.contains(&port) && (port - range.start()).is_multiple_of(2);
        let slow = took > SLOW_BIND;
        if second_choice || slow && signs.slow {
            signs.exhausted_until = Some(Instant::now() + PARITY_VALID_FOR);
            signs.proven = second_choice;
        }
        signs.slow = slow;
    }

    /// Notes that a `bind(…, 0)` found no number.
    pub(crate) fn note_exhausted(&self) {
        let mut signs = self.0.lock();
        signs.exhausted_until = Some(Instant::now() + PARITY_VALID_FOR);
        signs.proven = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_parity_or_two_slow_binds_in_a_row_mean_exhaustion() {
        let (quick, slow) = (Duration::from_micros(3), Duration::from_millis(2));
        let after = |binds: &[(u16, Duration)]| {
            let parity = ParityExhaustion::default();
            for (port, took) in binds {
                parity.note(&(32768..=60999), *port, *took);
            }
            (parity.is_exhausted(), parity.is_proven())
        };
        assert_eq!(after(&[(40001, quick), (40003, quick)]), (false, false));
        assert_eq!(after(&[(40000, quick)]), (true, true));
        let apart = after(&[(40001, slow), (40003, quick), (40005, slow)]);
        assert_eq!(apart, (false, false), "the slow binds are not in a row");
        assert_eq!(after(&[(40001, slow), (40003, slow)]), (true, false));
    }
}
