//! Every timeout, retry, interval and size limit of the command.

use std::time::{Duration, Instant};

/// `run --wait-listening` and `wait --timeout`, where the user names no duration.
pub(crate) const DEFAULT_WAIT: &str = "30s";

/// How often a wait checks the process of `--pid` and redraws its progress line.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// `who --probe`: a host that accepts or refuses answers in less; a firewall never answers.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// `run` sends SIGKILL to a command that has not ended this long after SIGTERM.
pub(crate) const TERMINATE_GRACE: Duration = Duration::from_secs(5);

/// How often `run` checks whether the command has ended after SIGTERM.
pub(crate) const TERMINATE_POLL: Duration = Duration::from_millis(10);

/// A keeper handles one release at a time, so a client that sends nothing must not block it.
pub(crate) const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// `serve` closes a connection that sends no complete request in this time.
pub(crate) const SERVE_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// `serve` pauses after a failed accept or thread start. Without descriptors or threads, the next
/// attempt fails at once, and nothing reports when one becomes available.
pub(crate) const SERVE_RETRY_DELAY: Duration = Duration::from_millis(50);

/// `serve` has a thread per reservation, which only waits for a process to end. In bytes.
pub(crate) const SERVE_STACK_BYTES: usize = 256 * 1024;

/// One poll(2) of a thread that waits for a process to end. It then polls again.
pub(crate) const PROCESS_END_POLL: Duration = Duration::from_secs(3600);

/// The server of `PORTSERVER_ADDRESS` fails a request that it has not answered in this time.
pub(crate) const PORT_SERVER_TIMEOUT: Duration = Duration::from_secs(30);

/// How many numbers of that server may be in use before the last refusal becomes the error.
pub(crate) const PORT_SERVER_ATTEMPTS: usize = 16;

/// The longest line read from either side of a port server: far more than a number needs. If
/// bytes stayed unread at close, the kernel would reset the connection, and the other side would
/// see an error instead of an empty answer.
pub(crate) const PORT_SERVER_LINE_BYTES: u64 = 100;

/// How many forks of one shell may stand between `reserve` and the shell that runs the script. The
/// limit ends the search if the parents in /proc form a loop.
pub(crate) const NESTED_SHELLS: usize = 64;

/// The only sleep of the command.
pub(crate) fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// What is left of a limit, rounded up to whole milliseconds, as reports print it.
pub(crate) fn remaining(limit: Duration, started: Instant) -> Duration {
    let micros = limit.saturating_sub(started.elapsed()).as_micros();
    Duration::from_millis(u64::try_from(micros.div_ceil(1000)).unwrap_or(u64::MAX))
}
