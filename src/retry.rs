//! The time limits, retries and pauses of the library.
//!
//! A public call that reserves ports, or that checks one port, has one [`RetryBudget`]. All retries
//! within the call use this budget, so the limits in the table below are those of the whole call. A
//! check of several ports has one budget for each port, and these budgets run at the same time. If
//! such a check has retried, it examines all its ports once more. For this last pass, each port has
//! a new budget: the time that is left of the port's first budget, but at least 100 ms.
//!
//! | who still holds the released socket, lock or name | the call retries for | then |
//! |---|---|---|
//! | a process that has called exec | no time | it reports the process |
//! | no owner is visible | [`NO_OWNER_LIMIT`], 100 ms | it reports what is visible |
//! | a forked child that has not called exec | [`FORKED_CHILD_LIMIT`], 2 s | it reports the child |
//! | a process that only checks the lock file | 2 s | it reports the port as reserved |
//!
//! Two kinds of sockets without a visible owner cause no retry:
//!
//! - A socket of another user, whose processes this user may not inspect.
//! - A connection that no process owns, such as one in TIME_WAIT.
//!
//! On Windows, no socket causes a check or a reservation to retry, because no forked child can have
//! a copy of the socket.
//!
//! The limits are elapsed time:
//!
//! - The 2 s start at the first refusal.
//! - The 100 ms start when the call first sees no owner. They start again if an owner becomes
//!   visible and disappears again.
//! - All retries of a budget together end after 2.1 s. Nothing renews a budget.
//!
//! When one of these limits has passed, the call tries once more. After that it reads the socket
//! table and writes its report. So a refused call for an exact number returns within 150 ms, or
//! within 2.5 s in the two cases with a limit of 2 s. `tests/it/linux/retries.rs` shows the 150 ms,
//! and the 2.5 s for a forked child.
//!
//! A wait (`wait_until_listening`, `wait_until_free`, `ReserveOptions::wait`) ends at the limit
//! that the caller passes. Between its tries the wait sleeps for one of the pauses of this module.

#[cfg(windows)]
use std::io;
use std::time::{Duration, Instant};

/// Who still holds a socket, a lock or a name that was released a moment ago. The variants are in
/// the order of their retry limits, the shortest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ResidualOwner {
    /// A retry cannot help. Usually a process holds the socket, lock or name, and keeps it. Other
    /// cases are connections without a process (such as TIME_WAIT) and owners that cannot be read.
    Process,
    /// No process is visible as the owner. For example, a process shows no descriptors for a moment
    /// during its exec, or another process probes the number for microseconds.
    Unknown,
    /// All owners are forked children that have not called exec.
    ForkedChild,
    /// A process that locks the lock file only to check or to remove the file. Such a lock usually
    /// lasts for microseconds. But many processes can take the lock in turn, or a process can be
    /// suspended while it has the lock.
    Reader,
}

/// How long a call retries while no owner is visible.
const NO_OWNER_LIMIT: Duration = Duration::from_millis(100);

/// How long a call retries while the owner is a forked child that has not called exec. A forked
/// child of this age or older counts as [`ResidualOwner::Process`], because it will probably never
/// call exec.
pub(crate) const FORKED_CHILD_LIMIT: Duration = Duration::from_secs(2);

/// The first pause of a budget. Each further pause is twice as long, up to [`LONGEST_PAUSE`]. A
/// random factor from 0.5 to 1 multiplies each pause.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// What is left of the time that one public call may spend on retries.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    /// When the first refusal came; `None` before the first refusal.
    started: Option<Instant>,
    /// Since when no owner is visible; `None` before the first refusal and while an owner is
    /// visible.
    unknown_since: Option<Instant>,
    pause: Duration,
    /// The limit for all retries of the call together. It applies to every kind of owner.
    at_most: Duration,
    /// Whether the one retry after a limit is used.
    is_last_used: bool,
}

impl RetryBudget {
    pub(crate) fn new() -> Self {
        Self::at_most(FORKED_CHILD_LIMIT + NO_OWNER_LIMIT)
    }

    /// A new budget. Its retries end after `at_most`, or after the limit of [`new`](Self::new) if
    /// that is shorter.
    pub(crate) fn within(at_most: Duration) -> Self {
        let new = Self::new();
        Self::at_most(at_most.min(new.at_most))
    }

    /// A budget without retries. A check with this budget makes one attempt.
    pub(crate) fn none() -> Self {
        Self::at_most(Duration::ZERO)
    }

    /// The budget of one check within a wait. `left` is the time until the deadline of the wait, or
    /// zero after the deadline.
    ///
    /// The limit is the time until the deadline, but never less than [`NO_OWNER_LIMIT`]. So the
    /// retries end about [`NO_OWNER_LIMIT`] after the deadline at the latest.
    pub(crate) fn of_poll(left: Duration) -> Self {
        Self::at_most(left.max(NO_OWNER_LIMIT))
    }

    /// If a check of several ports has retried, it examines all its ports once more. This is the
    /// budget of one port for that last pass. `passed` is the time since the first pass began. The
    /// limit of the new budget is the limit of `self` minus `passed`, but never less than
    /// [`NO_OWNER_LIMIT`].
    pub(crate) fn after(self, passed: Duration) -> Self {
        Self::of_poll(self.at_most.saturating_sub(passed))
    }

    fn at_most(at_most: Duration) -> Self {
        RetryBudget {
            started: None,
            unknown_since: None,
            pause: FIRST_PAUSE,
            at_most,
            is_last_used: false,
        }
    }

    /// Pauses and returns `true`. Returns `false` at once if a retry cannot help with this owner.
    /// If the time is up, returns `true` once, without a pause, and then `false`.
    pub(crate) fn pause(&mut self, owner: impl FnOnce() -> ResidualOwner) -> bool {
        let pause = self.next_pause(owner);
        pause.map(std::thread::sleep).is_some()
    }

    /// How long to pause before the next retry. `None` if a retry cannot help with this owner. If
    /// the time is up, the result is zero once, for a last retry, and then `None`.
    pub(crate) fn next_pause(&mut self, owner: impl FnOnce() -> ResidualOwner) -> Option<Duration> {
        if self.at_most.is_zero() {
            return None;
        }
        let started = *self.started.get_or_insert_with(Instant::now);
        let left = match owner() {
            ResidualOwner::Process => return None,
            ResidualOwner::ForkedChild | ResidualOwner::Reader => {
                self.unknown_since = None;
                FORKED_CHILD_LIMIT.saturating_sub(started.elapsed())
            }
            // While a forked child calls exec, its descriptors are not visible for a moment. So
            // this limit starts when the owner becomes invisible, not at the first refusal.
            ResidualOwner::Unknown => {
                let since = *self.unknown_since.get_or_insert_with(Instant::now);
                NO_OWNER_LIMIT.saturating_sub(since.elapsed())
            }
        };
        let left = left.min(self.at_most.saturating_sub(started.elapsed()));
        if left.is_zero() {
            // On a busy machine, the last try can be long ago, because the search for the owner
            // took the time since then. So each budget has one retry after a limit.
            let is_last = !std::mem::replace(&mut self.is_last_used, true);
            return is_last.then_some(Duration::ZERO);
        }
        // The random factor keeps two processes that block each other from retrying in step.
        let jitter = self.pause * fastrand::u32(50..=100) / 100;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Some(jitter.min(left))
    }

    /// Returns `true` once the limit has passed since the first refusal. The limit is
    /// [`NO_OWNER_LIMIT`] or the limit of the whole budget, whichever is shorter. Always `true` for
    /// a budget without retries.
    pub(crate) fn is_spent(&self) -> bool {
        let limit = self.at_most.min(NO_OWNER_LIMIT);
        limit.is_zero()
            || self
                .started
                .is_some_and(|started| started.elapsed() >= limit)
    }
}

/// How hard to try for one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RetryLevel {
    /// One bind, without retries.
    Once,
    /// One bind. If the kernel refuses it, the call reads the socket table. If only old connections
    /// occupy the number, the call binds once more, so that it claims the number beside these
    /// connections.
    WithTable,
    /// The steps of `WithTable`, repeated within the call's retry budget.
    WithBudget,
}

/// The bounds of the pause between two tries for a busy number (`ReserveOptions::wait`). After slow
/// tries the pause is longer: see [`QUEUE_PAUSE_PER_TRY`]. A random factor from 0.75 to 1.25
/// multiplies each pause.
///
/// Between these bounds the pause is the time waited so far, divided by [`QUEUE_PAUSE_SHARE`]. So a
/// call soon finds a port that is released soon, and a long wait costs little.
const QUEUE_PAUSE: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(10));
const QUEUE_PAUSE_SHARE: u32 = 8;

/// Limits the load of slow tries, such as those that walk a range. The limit applies to tries of
/// the level [`RetryLevel::Once`], from the second one on. The pause after such a try is at least
/// this many times as long as the fastest try of this level. But this minimum never exceeds
/// [`QUEUE_PAUSE_AFTER_TRY`]. The fastest try counts, because the system may have preempted a
/// slower try.
const QUEUE_PAUSE_PER_TRY: u32 = 20;
const QUEUE_PAUSE_AFTER_TRY: Duration = Duration::from_secs(1);

/// A call that waits for a busy number reads the socket table at this interval. The table shows
/// whether only connections of an earlier server are left, which do not prevent a reservation. A
/// try that reads the table costs as much as a hundred tries that do not.
const QUEUE_TABLE_EVERY: Duration = Duration::from_millis(250);

/// The pauses of one call that waits for a busy number (`ReserveOptions::wait`).
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

    /// The time until the limit of the wait.
    pub(crate) fn left(&self) -> Duration {
        self.at_most.saturating_sub(self.started.elapsed())
    }

    /// Pauses after a try of this level that lasted `took`. Returns the level of the next try, or
    /// `None` once the time is up.
    pub(crate) fn pause(&mut self, level: RetryLevel, took: Duration) -> Option<RetryLevel> {
        let (waited, left) = (self.started.elapsed(), self.left());
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
        // The random factor keeps processes that wait for the same port from trying in step.
        std::thread::sleep(left.min(pause * fastrand::u32(75..125) / 100));
        if self.table_read.elapsed() < QUEUE_TABLE_EVERY {
            return Some(RetryLevel::Once);
        }
        self.table_read = Instant::now();
        Some(RetryLevel::WithTable)
    }
}

/// The pauses between the polls of a wait for a listener. The last pause repeats. The first pauses
/// are short, because the server may be nearly ready. A poll reads the listeners, which costs tens
/// of microseconds. A wait for a free port uses the last pause while the port has a listener or is
/// reserved.
pub(crate) const LISTENING_PAUSES: [Duration; 3] = [
    Duration::from_micros(100),
    Duration::from_micros(300),
    Duration::from_millis(1),
];

/// A wait for the listener of one process may find listeners of other processes. While these
/// listeners stay the same, the wait searches for their owners again only after this time. A search
/// reads every process, which takes some milliseconds.
pub(crate) const OWNERS_EVERY: Duration = Duration::from_millis(50);

/// The maximum difference between the starts of two processes of a pipeline, in units of 10 ms. A
/// shell starts them within some milliseconds.
pub(crate) const TICKS_OF_PIPELINE: u64 = 20;

/// How many bytes of a shell script this crate reads, to find a loop that may start a server again.
#[cfg(target_os = "linux")]
pub(crate) const SCRIPT_BYTES: u64 = 64 * 1024;

/// How long a wait for the listener of a process goes on after the process has ended without a
/// known failure. The process may have left a daemon, which listens a moment later.
pub(crate) const DAEMON_GRACE: Duration = Duration::from_millis(500);

/// How long a server may run after SIGTERM before it gets SIGKILL.
pub(crate) const TERMINATE_GRACE: Duration = Duration::from_secs(5);

/// How long to wait for the end of processes after SIGKILL, also when a `Server` is dropped.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(2);

/// The pause between two checks whether a server has ended.
pub(crate) const ENDING_PAUSE: Duration = Duration::from_millis(1);

/// How long `Server::stop` waits until the port is free, after the server has ended.
pub(crate) const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// How many of the last lines of a server's stderr an error shows.
pub(crate) const STDERR_LINES: usize = 10;

/// How long to wait until a thread has read the stderr pipe of an ended server to its end
/// (Windows). Another process may keep the pipe open.
#[cfg(windows)]
pub(crate) const PIPE_LIMIT: Duration = Duration::from_millis(500);

/// The pause between two polls of a wait, in two cases:
///
/// - A wait for a free port finds a holder that does not listen. Only a bind, or a read of every
///   socket, shows such a holder. Such a read costs hundreds of microseconds.
/// - A wait for listeners to stay open finds that every port has a listener.
pub(crate) const FREE_PAUSE: Duration = Duration::from_millis(20);

/// If no number of a range is free, the error names the owners of the first allowed numbers of the
/// range, at most this many. Each number costs a read of every socket.
pub(crate) const NUMBERS_EXPLAINED: usize = 3;

/// If a call is about more ports than this, it reads the socket table once. Any other call reads
/// the table for each port. On Linux a read for one port costs nearly as much as a read of the
/// whole table, because the kernel walks the same lists.
pub(crate) const PORTS_READ_ALONE: usize = 4;

/// How long to wait for one connection that tests whether the port accepts connections. Two kinds
/// of calls make such connections:
///
/// - A report after a wait, or after a check for a process, if no socket listens. A connection that
///   is accepted then shows that a packet filter redirects the port.
/// - A check for a listener on a system whose socket table this crate cannot read.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_millis(100);

/// The shortest time limit for a connection. The standard library refuses a limit of zero.
pub(crate) const SHORTEST_CONNECT: Duration = Duration::from_millis(1);

/// Blocks the thread between two polls or two retries.
pub(crate) fn block_for(pause: Duration) {
    std::thread::sleep(pause);
}

/// A self-test checks whether the kernel keeps the promises of claims (bound sockets of this
/// crate). If this many tests in a row find a broken promise, this process makes no claims in the
/// network namespace. Another process that scans ports can disturb one test, but hardly three.
pub(crate) const SELF_TESTS: usize = 3;

/// How many non-ephemeral numbers a self-test (see [`SELF_TESTS`]) tries if the ephemeral range is
/// small or used up.
pub(crate) const SELF_TEST_NUMBERS: usize = 64;

/// How many numbers an automatic pick lets the kernel choose (`bind(…, 0)`) before it draws random
/// ones. Each rejected number stays claimed until the last of these tries, so that the kernel does
/// not offer the number again.
pub(crate) const KERNEL_PICKS: usize = 32;

/// If the ephemeral range has fewer numbers than this, an automatic pick tries the non-ephemeral
/// numbers first. In such a small range, the claims (bound sockets) of a parallel test suite would
/// take a large part of the numbers that outgoing connections need. The default range of Linux has
/// 28,232 numbers.
pub(crate) const SMALL_RANGE: usize = 512;

/// How many random ephemeral numbers an automatic pick tries to claim at most. If all are refused,
/// almost no ephemeral number is free.
pub(crate) const RANDOM_PICKS: usize = 1024;

/// After this many refused random numbers in one pick, the ephemeral range counts as nearly used
/// up: the pick then leaves the last free numbers for outgoing connections. A range with fewer than
/// [`SMALL_RANGE`] numbers always counts as nearly used up.
pub(crate) const SCARCE_AFTER: u32 = 64;

/// `bind(…, 0)` searches one half of the ephemeral range first (the odd or the even numbers). If
/// this process finds that half used up, it chooses numbers itself for this time. The next
/// `bind(…, 0)` after that can take 1.5 ms.
pub(crate) const PARITY_VALID_FOR: Duration = Duration::from_secs(1);

/// If a check finds at most this many busy ports, it also searches for another loopback address to
/// offer. The search binds each port again, which takes about 100 us.
pub(crate) const PORTS_WITH_OTHER_ADDRESS: usize = 8;

/// How long a pick by `bind(…, 0)` uses the ephemeral range that this process has read. A read
/// takes 2 us, which matters only to a process that picks many ports in a row.
pub(crate) const RANGE_VALID_FOR: Duration = Duration::from_millis(1);

/// A `bind(…, 0)` that takes longer than this is slow. Then either the half of the ephemeral range
/// that the kernel searches first (all odd or all even numbers) is used up, or the machine is busy.
/// After two slow binds in a row, that half counts as used up. The limit is about twenty times the
/// duration of a bind on an idle machine.
pub(crate) const SLOW_BIND: Duration = Duration::from_micros(60);

/// How many ephemeral numbers an automatic pick without a requested range tries at most. The limit
/// applies if the kernel does not choose the number, for example for UDP. Each try costs tens of
/// microseconds.
pub(crate) const NUMBERS_TRIED: usize = 4096;

/// How many numbers an automatic pick tries in a second pass, if the first pass fails. For a block
/// (several ports at fixed distances), the limit applies to base numbers. The second pass reads the
/// socket table for each refused number, which costs hundreds of microseconds.
pub(crate) const NUMBERS_LOOKED_UP: usize = 256;

/// How many numbers a pick with a stable name tries, in the order that follows from the name. If
/// all are refused, the pick goes on as without a name.
pub(crate) const NUMBERS_OF_NAME: usize = 256;

/// For how many network namespaces this process keeps cached values. The number is low because a
/// cached socket keeps its namespace alive.
pub(crate) const NAMESPACES_KEPT: usize = 8;

/// If a pick fails after at most this many numbers, sockets that were released a moment ago may
/// explain every refusal. The call then usually repeats the pick.
pub(crate) const FEW_NUMBERS: usize = 64;

/// How many times to open a lock file or a record file at most. The file is opened again if another
/// process removed it between the open and the lock.
pub(crate) const LOCK_REOPENS: usize = 16;

/// How many times to create a folder at most. The folder is created again if another process
/// removed it before this process could use it. Each process that starts at the same time can
/// remove it once.
#[cfg(unix)]
pub(crate) const FOLDER_TRIES: usize = 64;

/// How many times to try to occupy a descriptor number of this process, while other code of the
/// process opens and closes that number.
#[cfg(unix)]
pub(crate) const NUMBER_TRIES: usize = 16;

/// How many times to read the record of a lease (the text that says who reserved the port) before
/// the record counts as unreadable. The process that writes a record completes it within a moment.
pub(crate) const RECORD_READS: usize = 3;

/// How many times to try to lock the file of a lease's record. Another process locks the file for
/// microseconds while it checks the file.
#[cfg(unix)]
pub(crate) const RECORD_LOCKS: usize = 100;
#[cfg(unix)]
pub(crate) const RECORD_LOCK_PAUSE: Duration = Duration::from_micros(50);

/// How often a reservation also sweeps (removes unused lock files), and how many files one sweep
/// examines.
pub(crate) struct Sweep;

impl Sweep {
    /// One in this many calls that take a lease starts a sweep, which removes unused lock files.
    pub(crate) const ONE_IN: u32 = 256;
    /// How many lock files of this process's network namespace a sweep examines at most.
    pub(crate) const FILES: usize = 256;
    /// How many names of one folder a sweep lists at most.
    pub(crate) const FILES_LISTED: usize = 1024;
    /// If a reservation starts a sweep, the sweep keeps each lock file that was used within this
    /// time. So the next reservation of that port finds the file. Creating the file would cost more
    /// than all other steps of the reservation.
    pub(crate) const UNUSED_FOR: Duration = Duration::from_secs(60);
    /// One sweep in this many also sweeps the folders of other network namespaces.
    pub(crate) const OTHER_SCOPES_ONE_IN: u32 = 16;
    /// A sweep of the folders of other network namespaces keeps the folders and files that were
    /// used within this time.
    pub(crate) const SCOPE_UNUSED_FOR: Duration = Duration::from_secs(600);
}

/// The default lock folder is in `/dev/shm` only if that tmpfs has at least this size in bytes. The
/// lock files of all ports of both protocols take half of this size, with a page of 4 KiB each.
#[cfg(target_os = "linux")]
pub(crate) const MEMORY_OF_LOCK_FOLDER: i128 = 1 << 30;

/// How many service lookups of this process search the text of the services file, at 1 us each. The
/// next lookup parses the whole file, which takes 60 us.
pub(crate) const SERVICE_SEARCHES: u32 = 16;

/// How many times to read the socket table at most. This crate reads the table again if it changed
/// during the read.
#[cfg(target_os = "linux")]
pub(crate) const TABLE_READS: u32 = 3;

/// With more than this number of running processes, the report on a failed check stops its search
/// once every socket has an owner. A read of every process takes about 12 us per process on two
/// cores (Linux 6.18).
#[cfg(target_os = "linux")]
pub(crate) const PROCESSES_OF_REPORT: usize = 512;

/// How long to wait for the kernel's answer to a query of the socket table. Linux answers at once.
/// A sandbox or an emulator that never answers must not hang a test.
#[cfg(target_os = "linux")]
pub(crate) const TABLE_ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How many generations of ancestors to follow at most. `/proc` may show parents that form a loop.
/// The limit also ends such a loop.
pub(crate) const GENERATIONS: usize = 64;

/// Opens a file that another process may be deleting or scanning (Windows). While `is_passing`
/// returns `true` for the error, retries for at most about 50 ms.
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
        assert!(
            budget.pause(|| ResidualOwner::ForkedChild),
            "a forked child has a longer limit"
        );
        assert!(!RetryBudget::none().pause(|| ResidualOwner::ForkedChild));
    }

    #[test]
    fn one_retry_follows_a_search_that_takes_longer_than_the_limit() {
        let mut budget = RetryBudget::new();
        let mut slow = |owner| {
            budget.pause(|| {
                std::thread::sleep(2 * NO_OWNER_LIMIT);
                owner
            })
        };
        assert!(
            slow(ResidualOwner::Unknown),
            "the limit begins after the search"
        );
        assert!(slow(ResidualOwner::Unknown), "the retry after the limit");
        assert!(!slow(ResidualOwner::Unknown));
    }
}
