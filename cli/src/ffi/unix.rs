//! Unix: the calls for signals, standard streams and the environment that have no safe form.
#![expect(
    unsafe_code,
    reason = "set_var, code that runs between fork and exec, and calls of libc for signals"
)]

use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::signal::SigSet;
use rustix::net::SendFlags;

/// The signals that were ignored when this program started: bit N-1 stands for signal N.
static IGNORED_AT_START: AtomicU64 = AtomicU64::new(0);

/// Whether stdout was closed when this program started.
static STDOUT_CLOSED_AT_START: AtomicBool = AtomicBool::new(false);

/// The highest signal with a bit in [`IGNORED_AT_START`]. FreeBSD also has real-time signals above
/// 64, but no caller asks about a real-time signal.
const SIGNALS: i32 = 64;

/// The start code of libc or the dynamic linker calls [`record_inherited_state`] before Rust's
/// runtime starts. The runtime ignores SIGPIPE, and opens /dev/null for closed standard streams. So
/// in `main` it is too late to read the state that the parent passed on.
#[used]
#[cfg_attr(not(target_os = "macos"), unsafe(link_section = ".init_array"))]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
static AT_START: extern "C" fn() = record_inherited_state;

extern "C" fn record_inherited_state() {
    // SAFETY: F_GETFD reads the flags of a descriptor, and fails if it is closed.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    STDOUT_CLOSED_AT_START.store(flags < 0, Ordering::Relaxed);
    let ignored = (1..=SIGNALS)
        .filter(|signal| is_ignored(*signal))
        .fold(0, |mask, signal| mask | bit(signal));
    IGNORED_AT_START.store(ignored, Ordering::Relaxed);
}

fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call changes no signal. It writes at most one `sigaction` to
    // the pointer, which points to space for one.
    let failed = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0;
    // SAFETY: every field of `sigaction` is an integer or an optional function, for which zero is
    // valid.
    let action = unsafe { action.assume_init() };
    !failed && action.sa_sigaction == libc::SIG_IGN
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Returns `true` if the parent started this process with the signal ignored. For example, nohup
/// ignores SIGHUP, and systemd ignores SIGPIPE. The shell of a script ignores SIGINT and SIGQUIT in
/// background jobs.
pub(crate) fn is_ignored_at_start(signal: i32) -> bool {
    IGNORED_AT_START.load(Ordering::Relaxed) & bit(signal) != 0
}

/// Returns `true` if the parent started this process without a stdout. A write to stdout succeeds
/// even then, because Rust's runtime opens /dev/null instead.
pub(crate) fn is_stdout_closed_at_start() -> bool {
    STDOUT_CLOSED_AT_START.load(Ordering::Relaxed)
}

/// Makes the command start with these signals ignored.
pub(crate) fn ignore_in_child(command: &mut Command, signals: Vec<i32>) {
    let ignore = move || {
        for signal in &signals {
            // SAFETY: SIG_IGN runs no code, and signal(2) is async-signal-safe.
            unsafe { libc::signal(*signal, libc::SIG_IGN) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only reads its vector and calls signal(2).
    unsafe { command.pre_exec(ignore) };
}

/// Sets a variable in the environment of this process. No other thread may run.
#[cfg(target_os = "linux")]
pub(crate) fn set_variable(name: &str, value: &str) {
    // SAFETY: no other thread runs, so none reads the environment meanwhile.
    unsafe { std::env::set_var(name, value) };
}

/// macOS has no flag MSG_NOSIGNAL. On macOS, the caller of [`send_pid_from_child`] sets the option
/// SO_NOSIGPIPE on the socket.
#[cfg(target_os = "macos")]
const NO_SIGPIPE: SendFlags = SendFlags::empty();
#[cfg(not(target_os = "macos"))]
const NO_SIGPIPE: SendFlags = SendFlags::NOSIGNAL;

/// Before the forked child calls exec, it sends its pid in native byte order. The watcher, a
/// process of `run`, reads the pid at the other end of `socket`.
pub(crate) fn send_pid_from_child(command: &mut Command, socket: UnixStream) {
    let announce = move || {
        let pid = std::process::id().to_ne_bytes();
        // The send fails if the watcher has ended. No process waits for the pid in this case.
        let _sent = rustix::net::send(&socket, &pid, NO_SIGPIPE);
        Ok(())
    };
    // SAFETY: between fork and exec the closure only calls getpid(2) and send(2).
    unsafe { command.pre_exec(announce) };
}

/// The blocked signals that are pending for this thread or for the whole process.
pub(crate) fn pending_signals() -> io::Result<SigSet> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the call writes one `sigset_t` to the pointer.
    if unsafe { libc::sigpending(set.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above succeeded, so the set is initialized.
    let set = unsafe { set.assume_init() };
    // SAFETY: sigpending(2) writes a valid set.
    Ok(unsafe { SigSet::from_sigset_t_unchecked(set) })
}

/// Gives the signal its default action again.
pub(crate) fn restore_default(signal: i32) {
    // SAFETY: SIG_DFL runs no code of this program.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Closes every descriptor except stdin, stdout and stderr. The caller must not have opened any
/// descriptor yet.
pub(crate) fn close_inherited_descriptors() {
    // SAFETY: the caller has opened no descriptor yet, so no value owns a descriptor that this call
    // closes.
    unsafe { close_fds::close_open_fds(3, &[]) };
}
