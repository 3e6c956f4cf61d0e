//! Patience with a port that is refused although nobody has it.

use std::io;
use std::time::{Duration, Instant};

/// Who still has what was let go, from the least reason for patience to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ResidualOwner {
    /// Somebody whose it is.
    Others,
    /// Nobody at all, or nobody who is seen: within its exec a process shows no descriptors for a moment.
    Nobody,
    /// Children alone that have not exec'ed since they were forked.
    Copies,
}

/// A child forked at this moment shares whatever was just let go until it execs, and a look occupies a number for its
/// microseconds: such a refusal passes by itself, mostly within a few milliseconds.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    deadline: Option<Instant>,
    pause: Duration,
    pauses: u32,
    /// For copies, and for nobody.
    renewals: [u32; 2],
}

impl RetryBudget {
    const AT_MOST: Duration = Duration::from_millis(100);

    /// On a machine so busy that a pause takes long, the child that is waited for does not run either.
    const PAUSES_AT_LEAST: u32 = 50;

    pub(crate) fn new() -> Self {
        RetryBudget {
            deadline: None,
            pause: Duration::from_micros(20),
            pauses: 0,
            renewals: [0; 2],
        }
    }

    /// Pauses; `false` once it has run out.
    pub(crate) fn pause(&mut self) -> bool {
        let deadline = *self
            .deadline
            .get_or_insert_with(|| Instant::now() + Self::AT_MOST);
        self.pauses += 1;
        if Instant::now() >= deadline && self.pauses > Self::PAUSES_AT_LEAST {
            return false;
        }
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(Duration::from_millis(2));
        true
    }

    /// So many pauses, some milliseconds in all, before the one look that a preference is worth.
    const PAUSES_BEFORE_A_LOOK: u32 = 8;

    /// Pauses a few times, and then unless it is others'; never again once it has run out.
    pub(crate) fn pause_unless_others(&mut self, left: impl FnOnce() -> ResidualOwner) -> bool {
        (self.pauses != Self::PAUSES_BEFORE_A_LOOK || left() != ResidualOwner::Others)
            && self.pause()
    }

    /// How often it is renewed for a child that is seen not to have exec'ed yet, since on a starved machine that takes long;
    /// and for nobody, since it may be within its exec at the look.
    const RENEWALS_AT_MOST: [u32; 2] = [20, 3];

    /// Pauses, and once it has run out again if there is reason to.
    pub(crate) fn pause_while(&mut self, left: impl FnOnce() -> ResidualOwner) -> bool {
        if self.pause() {
            return true;
        }
        let reason = match left() {
            ResidualOwner::Others => return false,
            ResidualOwner::Copies => 0,
            ResidualOwner::Nobody => 1,
        };
        if self.renewals[reason] == Self::RENEWALS_AT_MOST[reason] {
            return false;
        }
        self.renewals[reason] += 1;
        (self.deadline, self.pauses) = (None, 0);
        self.pause()
    }

    /// Tries until it is not "address in use", or the patience has run out.
    pub(crate) fn retry<T>(mut self, mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match bind() {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && self.pause() => {}
                outcome => return outcome,
            }
        }
    }
}
