//! Every timeout, retry, interval and size limit of the command.

use std::time::{Duration, Instant};

/// The default DURATION of `run --wait-listening` and `wait --timeout`.
pub(crate) const DEFAULT_WAIT: &str = "30s";

/// How long `run --wait` and `reserve --wait` wait before they show that they wait.
pub(crate) const PROGRESS_DELAY: Duration = Duration::from_millis(200);

/// How often a wait redraws its progress line. A wait for listeners or for free ports also checks
/// this often whether the process of `--pid` has ended. On Windows, `run --wait-listening` checks
/// this often whether its wait is over.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// If `check` or `wait` uses several threads, each thread except the last checks at least this
/// number of ports. A check takes about 20 us, so a further thread saves time only for many checks.
pub(crate) const PORTS_PER_THREAD: usize = 256;

/// The maximum number of ports in one step of a search for ports that fail. The library diagnoses
/// every port that fails in a step, at about 100 us each. With steps, a search for the first port
/// that fails makes fewer diagnoses.
pub(crate) const PORTS_PER_STEP: usize = 1024;

/// The maximum number of ports that a failed `wait` reports with their holders. `wait` only counts
/// further ports.
pub(crate) const WAIT_REPORTS: usize = 10;

/// How many ports a note names, such as the note of a wait. The note only counts the other ports.
pub(crate) const PORTS_IN_SUMMARY: usize = 4;

/// How long a failed `wait` searches for ports to report. The limit applies once the search has
/// found a port, and only while more than [`PORTS_PER_THREAD`] ports are left.
///
/// Each of these steps after a wait has the same limit:
/// - `Finding::all` retries its check.
/// - `Finding::all` then calls `after_wait` for the ports.
/// - After a failed wait for HTTP, the search for the reason makes one connection.
pub(crate) const WAIT_REPORT_TIME: Duration = Duration::from_millis(100);

/// The timeout of `who --probe`, for hosts whose firewall drops the packets. If there are more
/// connections than [`CONNECTION_THREADS`], each thread divides this time among its connections.
/// Each connection has at least [`SHORTEST_PROBE`].
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The shortest timeout of one connection of `who --probe`.
pub(crate) const SHORTEST_PROBE: Duration = Duration::from_millis(100);

/// How long `run` and `wait` wait for the library's report on a process that ended before it
/// listened. The library takes up to 0.5 s of this time, because a daemon that the process started
/// may still begin to listen.
pub(crate) const LISTEN_REPORT: Duration = Duration::from_secs(5);

/// How long `wait --for --pid` goes on after the process has ended. Meanwhile the listener of a
/// daemon that the process left may complete the duration of `--for`. Without this limit the wait
/// would go on, because `wait_until_all_listening` does not watch the process.
pub(crate) const STEADY_REPORT: Duration = Duration::from_millis(500);

/// How long `run` without `--wait-listening` watches whether something listens on its ports. A
/// server that cannot bind its port usually fails sooner.
pub(crate) const SILENT_PORTS_WATCH: Duration = Duration::from_secs(5);

/// How long `run` waits after a signal before it checks whether its whole process group got the
/// signal. A sender such as timeout(1) signals `run` first, and the group right after that.
#[cfg(unix)]
pub(crate) const GROUP_SIGNAL_DELAY: Duration = Duration::from_millis(20);

/// How long `run` waits for an answer of its watcher. The watcher is a process that shows which
/// signals the process group got.
#[cfg(unix)]
pub(crate) const WATCHER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long after SIGTERM (or SIGINT) these processes get SIGKILL:
/// - the command of `run --wait-listening`, if the wait fails
/// - the owners of listeners that `run --leaks=stop` ends
/// - the command of a `run` that was killed
pub(crate) const TERMINATE_GRACE: Duration = Duration::from_secs(5);

/// The default of `stop --timeout`: how long after SIGTERM (or SIGINT) a process gets SIGKILL.
pub(crate) const DEFAULT_STOP_TIMEOUT: &str = "10s";

/// How long to wait for a process to end after SIGKILL. Normally the kernel ends the process at
/// once. The kernel cannot end a process in a system call that does not return, such as a read from
/// a network file system.
pub(crate) const KILL_GRACE: Duration = Duration::from_secs(5);

/// How long `stop` waits for the ports to become free after their servers have ended. A port can
/// stay in use for two reasons:
/// - A forked child keeps a socket until the child calls exec.
/// - `portlease run` started the server, and has not released the port yet.
pub(crate) const FREE_AFTER_STOP: Duration = Duration::from_secs(5);

/// How long `stop` and `run --leaks=stop` watch whether the parent of a stopped server starts the
/// server again. They do not watch after the parent has ended.
pub(crate) const RESTART_WATCH: Duration = Duration::from_secs(1);

/// How often `stop` and `run --leaks=stop` check whether a server was started again.
pub(crate) const RESTART_POLL: Duration = Duration::from_millis(50);

/// The timeout of one HTTP request of `wait --http` or `run --http`. A server that is still
/// starting may leave one request unanswered, and answer the next one.
pub(crate) const HTTP_ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// The longest time that a wait for HTTP waits for an answer of 127.0.0.1 before it sends the
/// request to ::1 too.
pub(crate) const HTTP_FALLBACK_DELAY: Duration = Duration::from_millis(250);

/// How long a wait for HTTP pauses before it repeats a request that failed.
pub(crate) const HTTP_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The maximum number of threads that send HTTP requests, or make the connections of `who --probe`,
/// at the same time. A request for a port without an address opens two sockets, and macOS allows a
/// process 256 descriptors by default.
pub(crate) const CONNECTION_THREADS: usize = 64;

/// How many bytes of an HTTP answer are read to find its status.
pub(crate) const HTTP_HEAD_BYTES: usize = 64 * 1024;

/// How long a listener may outlive the command before `run` reports it. A script may end right
/// after it has signalled its server.
pub(crate) const LEAK_GRACE: Duration = Duration::from_millis(500);

/// How often `run` scans for listeners during [`LEAK_GRACE`].
pub(crate) const LEAK_POLL: Duration = Duration::from_millis(10);

/// The maximum number of rounds in which `run --leaks=stop` ends processes. The second round finds
/// workers that outlived their server. Without a limit, a supervisor that starts a server again
/// after every round would keep `run` busy.
pub(crate) const LEAK_STOP_ROUNDS: usize = 3;

/// How often to check whether a command and the processes that it started have ended after SIGTERM
/// or SIGKILL.
pub(crate) const TERMINATE_POLL: Duration = Duration::from_millis(10);

/// How long a keeper waits for the request of a `release` or `list` that has connected, and then
/// for the client to read the answer. On Unix a keeper serves one client at a time, so a client
/// that does nothing must not block the others.
pub(crate) const KEEPER_CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long `release` or `list` waits for one keeper, including the connect. On Unix a keeper
/// serves one client at a time, and may serve another client first.
pub(crate) const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long `release` or `list` pauses before it connects again, if a keeper's socket has a full
/// queue.
#[cfg(unix)]
pub(crate) const RELEASE_RETRY_DELAY: Duration = Duration::from_millis(20);

/// How long a client pauses before it opens a pipe again, if all instances of the pipe are in use.
#[cfg(windows)]
pub(crate) const PIPE_RETRY_DELAY: Duration = Duration::from_millis(20);

/// On Windows `reserve` marks this many handle values as not inheritable, the lowest ones, so that
/// its keeper does not inherit them. To mark one value takes less than a microsecond.
#[cfg(windows)]
pub(crate) const INHERITED_HANDLES: usize = 16_384;

/// The maximum length of a request of `release` or `list`. A request is an endpoint or the word
/// `list`, and is far shorter. On Windows, also the maximum length of a keeper's answer.
pub(crate) const RELEASE_LINE_BYTES: usize = 100;

/// The maximum length of a keeper's answer, which can list many ports.
#[cfg(unix)]
pub(crate) const KEEPER_ANSWER_BYTES: usize = 1024 * 1024;

/// How often to check whether a process has ended, if there is no pidfd to wait for: the kernel has
/// none, or a sandbox refuses pidfd_open(2).
#[cfg(target_os = "linux")]
pub(crate) const PROCESS_POLL: Duration = Duration::from_millis(20);

/// `serve` closes a connection on which no request arrives within this time. On Unix the limit
/// holds for each read of the request, on Windows for the whole request.
pub(crate) const SERVE_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// `serve` and a keeper pause this long after a failed accept or thread start. If descriptors or
/// threads are used up, the next attempt would fail at once. No event reports when a descriptor or
/// thread becomes available.
pub(crate) const SERVE_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The size of the stack of each thread of `serve`. It is small, because each reservation keeps a
/// thread. This thread waits for the end of the process that the request names.
pub(crate) const SERVE_STACK_BYTES: usize = 256 * 1024;

/// The timeout of one system call in a thread that waits for a process to end. After the timeout
/// the thread repeats the call.
pub(crate) const PROCESS_END_POLL: Duration = Duration::from_secs(3600);

/// A request to the server of `PORTSERVER_ADDRESS` fails if the connect, a read or a write takes
/// longer than this.
pub(crate) const PORT_SERVER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connect to a port server is repeated after "connection refused". A server that is
/// starting binds its address before it listens, and refuses connects until it listens.
#[cfg(unix)]
pub(crate) const SERVER_START_LIMIT: Duration = Duration::from_millis(100);

/// How long a client pauses before it repeats a connect that a port server refused.
#[cfg(unix)]
pub(crate) const SERVER_START_PAUSE: Duration = Duration::from_millis(2);

/// The maximum number of requests to the server of `PORTSERVER_ADDRESS` for one reservation of a
/// port. A further request follows only if the granted number is in use.
pub(crate) const PORT_SERVER_ATTEMPTS: usize = 16;

/// The maximum length of a line that `serve` and its clients read. A number is far shorter, but an
/// invalid line should be read whole. If the reader closes a connection with unread bytes, the
/// kernel resets the connection. The sender of the line then sees an error instead of an empty
/// answer.
pub(crate) const PORT_SERVER_LINE_BYTES: u64 = 100;

/// The maximum number of ancestors that `reserve` checks to find its caller or its CI job. `stop`
/// lists its own ancestors up to this number too. The limit ends the search if the system reports
/// parents that form a loop.
pub(crate) const NESTED_CALLERS: usize = 64;

/// The resolution of the timeout of poll(2).
#[cfg(unix)]
pub(crate) const TIMER_STEP: Duration = Duration::from_millis(1);

/// If at most this number of ports fail, `check` prints the remedies below each port. If more fail,
/// `check` prints one line of remedies at the end. Exception: with `-v`, the remedies are always
/// below each port.
pub(crate) const HELP_PER_PORT: usize = 3;

/// `run` records at most this number of characters of its command, for reports.
pub(crate) const COMMAND_CHARS: usize = 80;

/// The only sleep of the command. A test rejects a sleep in any other file.
pub(crate) fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// The time that is left of a `limit` that began at `started`. It is rounded up to whole
/// milliseconds, because reports show milliseconds.
pub(crate) fn remaining(limit: Duration, started: Instant) -> Duration {
    let micros = limit.saturating_sub(started.elapsed()).as_micros();
    Duration::from_millis(u64::try_from(micros.div_ceil(1000)).unwrap_or(u64::MAX))
}
