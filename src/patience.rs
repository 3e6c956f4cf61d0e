//! Patience with a port that is refused although nobody has it.

use std::io;
use std::time::{Duration, Instant};

/// A child forked at this moment shares whatever was just let go until it execs, and a look occupies a number for its
/// microseconds: such a refusal passes by itself, mostly within a few milliseconds.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Option<Instant>,
    pause: Duration,
    pauses: u32,
    renewals: u32,
}

impl Patience {
    const AT_MOST: Duration = Duration::from_millis(100);

    /// On a machine so busy that a pause takes long, the child that is waited for does not run either.
    const PAUSES_AT_LEAST: u32 = 50;

    pub(crate) fn new() -> Self {
        Patience { deadline: None, pause: Duration::from_micros(20), pauses: 0, renewals: 0 }
    }

    /// Pauses; `false` once it has run out.
    pub(crate) fn pause(&mut self) -> bool {
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + Self::AT_MOST);
        self.pauses += 1;
        if Instant::now() >= deadline && self.pauses > Self::PAUSES_AT_LEAST {
            return false;
        }
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(Duration::from_millis(2));
        true
    }

    /// So many pauses, some milliseconds in all, before the look at what is there, which may miss a child that is within its
    /// exec.
    const UNSEEN_PAUSES: u32 = 8;

    /// Pauses a few times, and then only if such a child is there.
    pub(crate) fn pause_if_seen(&mut self, is_there: impl FnOnce() -> bool) -> bool {
        (self.pauses != Self::UNSEEN_PAUSES || is_there()) && self.pause()
    }

    /// How often it is renewed for a child that is seen not to have exec'ed yet: on a starved machine that takes long.
    const RENEWALS_AT_MOST: u32 = 20;

    /// Pauses, and once it has run out again if such a child is still there.
    pub(crate) fn pause_while(&mut self, is_there: impl FnOnce() -> bool) -> bool {
        if self.pause() {
            return true;
        }
        if self.renewals == Self::RENEWALS_AT_MOST || !is_there() {
            return false;
        }
        self.renewals += 1;
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
