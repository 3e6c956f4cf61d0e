//! Every limit, retry and sleep of the library.
//!
//! One public call has one [`RetryBudget`]. Everything below the call that retries draws on it, so
//! the limits are those of the whole call:
//!
//! | who still holds what was released | the call retries for | then |
//! |---|---|---|
//! | a process that is visible and has called exec | 0 | it reports the process |
//! | no visible owner | [`NO_OWNER_LIMIT`], 100 ms | it reports what is visible |
//! | a forked child that has not called exec | [`FORKED_CHILD_LIMIT`], 2 s | it reports the child |
//! | a process that reads the lock file | 2 s as well | it reports a reservation |
//!
//! The limits are wall-clock time. The 2 s start at the first refusal. The 100 ms start when no
//! owner is visible. After the last retry the call reads the socket table once more and writes its
//! report. So an exact number that is refused returns within 150 ms, or within 2.5 s while a forked
//! child has it. `tests/it/linux/retries.rs` shows both. Nothing renews a budget.
//!
//! A wait (`wait_until_listening`, `wait_until_free`, `ReserveOptions::wait`) has the caller's
//! limit instead, and uses the pauses below between its polls.

use std::io;
use std::time::{Duration, Instant};

/// The owner of a socket, a lock or a name that was released a moment ago, as far as it matters for
/// a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ResidualOwner {
    /// A process that will not release it by itself.
    Process,
    /// No visible process. During its exec a process shows no descriptors for a moment, and a probe
    /// of another process occupies a number for microseconds.
    Unknown,
    /// Only children that have not called exec since they were forked.
    ForkedChild,
    /// A process that reads the lock file. A read takes microseconds, but many processes can read
    /// in turn, and a reader can be suspended.
    Reader,
}

/// How long a call retries while no owner is visible.
const NO_OWNER_LIMIT: Duration = Duration::from_millis(100);

/// How long a call retries while a forked child that has not called exec is the owner. A child that
/// is older than this will not call exec, and counts as a process of its own.
pub(crate) const FORKED_CHILD_LIMIT: Duration = Duration::from_secs(2);

/// The first pause of a budget; each further one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// What is left of the time that one public call may spend on retries.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    /// When the first refusal came.
    started: Option<Instant>,
    /// Since when no owner is visible.
    unknown_since: Option<Instant>,
    pause: Duration,
    /// The limit for all retries together.
    at_most: Duration,
}

impl RetryBudget {
    pub(crate) fn new() -> Self {
        Self::at_most(FORKED_CHILD_LIMIT + NO_OWNER_LIMIT)
    }

    /// For a probe that comes after the last try: it never retries.
    pub(crate) fn none() -> Self {
        Self::at_most(Duration::ZERO)
    }

    /// For one check of a wait whose deadline is `left` from now. A check that lasts longer than
    /// the deadline ends at most [`NO_OWNER_LIMIT`] late.
    pub(crate) fn of_poll(left: Option<Duration>) -> Self {
        Self::at_most(left.unwrap_or_default().max(NO_OWNER_LIMIT))
    }

    fn at_most(at_most: Duration) -> Self {
        RetryBudget {
            started: None,
            unknown_since: None,
            pause: FIRST_PAUSE,
            at_most,
        }
    }

    /// Pauses and returns `true`. Returns `false` at once if the owner is not worth a retry, or if
    /// the time is up.
    pub(crate) fn pause(&mut self, owner: impl FnOnce() -> ResidualOwner) -> bool {
        if self.at_most.is_zero() {
            return false;
        }
        let started = *self.started.get_or_insert_with(Instant::now);
        let left = match owner() {
            ResidualOwner::Process => return false,
            ResidualOwner::ForkedChild | ResidualOwner::Reader => {
                self.unknown_since = None;
                FORKED_CHILD_LIMIT.saturating_sub(started.elapsed())
            }
            // A child that calls exec shows no owner for a moment. The limit counts from that
            // moment.
            ResidualOwner::Unknown => {
                let since = *self.unknown_since.get_or_insert_with(Instant::now);
                NO_OWNER_LIMIT.saturating_sub(since.elapsed())
            }
        };
        let left = left.min(self.at_most.saturating_sub(started.elapsed()));
        if left.is_zero() {
            return false;
        }
        // The random factor keeps two processes that refuse each other from retrying in step.
        let jitter = self.pause * fastrand::u32(50..=100) / 100;
        std::thread::sleep(jitter.min(left));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }

    /// Whether retries without a visible owner have used up their time.
    pub(crate) fn is_spent(&self) -> bool {
        let limit = self.at_most.min(NO_OWNER_LIMIT);
        limit.is_zero()
            || self
                .started
                .is_some_and(|started| started.elapsed() >= limit)
    }

    /// Calls `bind` until it is not refused as "address in use", or the time is up.
    pub(crate) fn retry<T>(&mut self, mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match bind() {
                Err(e)
                    if e.kind() == io::ErrorKind::AddrInUse
                        && self.pause(|| ResidualOwner::Unknown) => {}
                outcome => return outcome,
            }
        }
    }
}

/// How hard to try for one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RetryLevel {
    /// One bind.
    Once,
    /// One bind, and a read of the socket table if it is refused: a number that only old
    /// connections occupy can be claimed.
    WithTable,
    /// As `WithTable`, with the call's retry budget.
    WithBudget,
}

/// The shortest and the longest pause between two tries for a busy number (`ReserveOptions::wait`).
///
/// The pause grows with the time waited: a released port is found soon, and a long wait costs
/// little.
const QUEUE_PAUSE: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(10));
const QUEUE_PAUSE_SHARE: u32 = 8;

/// A try that walks a range is slow. The pause after it is this many times the duration of the
/// fastest try so far, and at most [`QUEUE_PAUSE_AFTER_TRY`]. The fastest try is used because a
/// slower one may have been preempted.
const QUEUE_PAUSE_PER_TRY: u32 = 20;
const QUEUE_PAUSE_AFTER_TRY: Duration = Duration::from_secs(1);

/// How often a try reads the socket table. A read costs as much as a hundred tries without one. It
/// shows whether only connections of an earlier server are left: a number can be reserved over
/// these.
const QUEUE_TABLE_EVERY: Duration = Duration::from_millis(250);

/// The pauses of a queue for a busy number.
#[derive(Debug)]
pub(crate) struct Queue {
    started: Instant,
    at_most: Duration,
    fastest: Option<Duration>,
    table_read: Instant,
}

impl Queue {
    pub(crate) fn new(at_most: Duration) -> Self {
        let now = Instant::now();
        Queue {
            started: now,
            at_most,
            fastest: None,
            table_read: now,
        }
    }

    /// Pauses after a try of this level that lasted `took`. Returns the level of the next try, or
    /// `None` once the time is up.
    pub(crate) fn pause(&mut self, level: RetryLevel, took: Duration) -> Option<RetryLevel> {
        let waited = self.started.elapsed();
        let left = self.at_most.saturating_sub(waited);
        if left.is_zero() {
            return None;
        }
        let mut pause = (waited / QUEUE_PAUSE_SHARE).clamp(QUEUE_PAUSE.0, QUEUE_PAUSE.1);
        if level == RetryLevel::Once {
            let fastest = self.fastest.map_or(took, |fastest| fastest.min(took));
            if self.fastest.is_some() {
                pause = pause.max((fastest * QUEUE_PAUSE_PER_TRY).min(QUEUE_PAUSE_AFTER_TRY));
            }
            self.fastest = Some(fastest);
        }
        // The random factor keeps the processes of one queue from polling in step.
        std::thread::sleep(left.min(pause * fastrand::u32(75..125) / 100));
        if self.table_read.elapsed() < QUEUE_TABLE_EVERY {
            return Some(RetryLevel::Once);
        }
        self.table_read = Instant::now();
        Some(RetryLevel::WithTable)
    }
}

/// The pauses of a wait for a listener: short at first, for a server that is nearly up. A read of
/// the listeners costs some ten microseconds.
pub(crate) const LISTENING_PAUSES: [Duration; 3] = [
    Duration::from_micros(100),
    Duration::from_micros(300),
    Duration::from_millis(1),
];

/// A wait for one process's listener searches the owners of a stranger's listener this often. A
/// search reads every process, which takes some milliseconds.
pub(crate) const OWNERS_EVERY: Duration = Duration::from_millis(50);

/// The pause of a wait for a free port whose holder does not listen. Only a read of every socket
/// shows such a holder, and costs some hundred microseconds.
pub(crate) const FREE_PAUSE: Duration = Duration::from_millis(20);

/// How long one connection is tried, on systems without a socket table.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_millis(100);

/// The shortest limit for a connection. The standard library refuses a limit of zero.
pub(crate) const SHORTEST_CONNECT: Duration = Duration::from_millis(1);

/// Blocks the thread between two polls of a wait.
pub(crate) fn block_for(pause: Duration) {
    std::thread::sleep(pause);
}

/// How often a self-test must answer "no" in a row to count. Another process that scans ports can
/// disturb one test, but hardly three.
pub(crate) const SELF_TESTS: usize = 3;

/// How many random numbers from 1024 up a self-test tries if the ephemeral range is used up.
pub(crate) const SELF_TEST_NUMBERS: usize = 64;

/// How many numbers of the kernel's choice an automatic pick tries. Each rejected number stays
/// claimed until the pick ends, so that the kernel does not offer it again.
pub(crate) const KERNEL_PICKS: usize = 32;

/// How many random ephemeral numbers an automatic pick tries after the kernel's choices. If all are
/// refused, almost nothing is free.
pub(crate) const RANDOM_PICKS: usize = 1024;

/// After this many refused numbers in one pick, the ephemeral range counts as nearly used up. A
/// range with at most this many numbers always does.
pub(crate) const SCARCE_AFTER: u32 = 64;

/// How long the half of the ephemeral range that `bind(…, 0)` searches first counts as used up. The
/// next test costs one bind of 1.5 ms, which is little once per second.
pub(crate) const PARITY_VALID_FOR: Duration = Duration::from_secs(1);

/// If a `bind(…, 0)` takes longer, it walked a used-up half of the ephemeral range, or the machine
/// is busy. This is about twenty times the duration of a bind on an idle machine.
pub(crate) const SLOW_BIND: Duration = Duration::from_micros(60);

/// How many ephemeral numbers a pick without claims tries. Each try costs some ten microseconds.
pub(crate) const NUMBERS_TRIED: usize = 4096;

/// How many refused numbers, or blocks, a pick tries again with the socket table. Each costs some
/// hundred microseconds.
pub(crate) const NUMBERS_LOOKED_UP: usize = 256;

/// For how many network namespaces this process keeps values. A kept socket keeps its namespace
/// alive.
pub(crate) const NAMESPACES_KEPT: usize = 8;

/// If at most this many numbers were refused, sockets that were released a moment ago may explain
/// all of the refusals.
pub(crate) const FEW_NUMBERS: usize = 64;

/// How often to open a lock file again that another process swept.
pub(crate) const LOCK_REOPENS: usize = 16;

/// How often to create a folder again that another process swept. Each other process can sweep it
/// once.
#[cfg(unix)]
pub(crate) const FOLDER_TRIES: usize = 64;

/// How often to try to occupy a descriptor number that other code of the process opens and closes
/// at the same time.
#[cfg(unix)]
pub(crate) const NUMBER_TRIES: usize = 16;

/// How often to read a record that is torn. Its writer completes it within a moment.
pub(crate) const RECORD_READS: usize = 3;

/// How often to try to lock a record. A process that checks whether it is locked has the lock for
/// microseconds.
#[cfg(unix)]
pub(crate) const RECORD_LOCKS: usize = 100;
#[cfg(unix)]
pub(crate) const RECORD_LOCK_PAUSE: Duration = Duration::from_micros(50);

/// When a reservation also sweeps unused lock files, and how many.
pub(crate) struct Sweep;

impl Sweep {
    /// Of this many reservations, one starts a sweep.
    pub(crate) const ONE_IN: u32 = 64;
    pub(crate) const FILES: usize = 64;
    pub(crate) const FILES_LISTED: usize = 1024;
    /// A sweep keeps files that were used within this time: to create a file again costs more than
    /// a whole reservation.
    pub(crate) const UNUSED_FOR: Duration = Duration::from_secs(60);
    /// One sweep in this many also sweeps the folders of other network namespaces.
    pub(crate) const OTHER_SCOPES_ONE_IN: u32 = 16;
    pub(crate) const SCOPE_UNUSED_FOR: Duration = Duration::from_secs(600);
}

/// How often to read the socket table until it does not change during the read.
#[cfg(target_os = "linux")]
pub(crate) const TABLE_READS: u32 = 3;

/// The limit for an answer of the kernel. Linux answers at once. A sandbox or an emulator that
/// never answers must not hang a test.
#[cfg(target_os = "linux")]
pub(crate) const TABLE_ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How many generations of processes are followed at most, which also ends a loop in `/proc`.
pub(crate) const GENERATIONS: usize = 64;

/// Retries the opening of a file that another process deletes or scans (Windows).
#[cfg(windows)]
pub(crate) fn retry_open<T>(
    mut open: impl FnMut() -> io::Result<T>,
    is_passing: impl Fn(&io::Error) -> bool,
) -> io::Result<T> {
    const TRIES: usize = 50;
    for _ in 1..TRIES {
        match open() {
            Err(e) if is_passing(&e) => std::thread::sleep(Duration::from_millis(1)),
            opened => return opened,
        }
    }
    open()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(owner: ResidualOwner) -> Duration {
        let started = Instant::now();
        let mut budget = RetryBudget::new();
        while budget.pause(|| owner) {}
        started.elapsed()
    }

    #[test]
    fn a_budget_ends_at_its_limit_and_a_visible_process_ends_it_at_once() {
        assert!(spent(ResidualOwner::Process) < NO_OWNER_LIMIT);
        assert!(spent(ResidualOwner::Unknown) >= NO_OWNER_LIMIT);
        assert!(spent(ResidualOwner::ForkedChild) >= FORKED_CHILD_LIMIT);
    }

    #[test]
    fn one_budget_is_not_renewed() {
        let mut budget = RetryBudget::new();
        while budget.pause(|| ResidualOwner::Unknown) {}
        assert!(budget.is_spent());
        assert!(!budget.pause(|| ResidualOwner::Unknown));
        assert!(budget.pause(|| ResidualOwner::ForkedChild), "its own limit");
        assert!(!RetryBudget::none().pause(|| ResidualOwner::ForkedChild));
    }
}
