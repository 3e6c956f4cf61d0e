//! Forked children that have not called exec. Each holds copies of the worker's sockets and lock
//! files, also after the worker has released them.

use std::io::{self, PipeWriter, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portlease::ReserveOptions;

use crate::clock::{MILLISECOND, now};
use crate::report::{count, print, report_ended, report_held, report_refused};

/// What a child does after it has slept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Exec,
    /// It ends without a call of exec.
    Exit,
}

impl After {
    fn random() -> After {
        match fastrand::u8(..4) {
            0 => After::Exit,
            _ => After::Exec,
        }
    }

    /// How long the child sleeps. It stays below the 2 s for which the library retries.
    fn delay(self) -> Duration {
        Duration::from_millis(match self {
            After::Exec => fastrand::u64(20..300),
            After::Exit => fastrand::u64(50..900),
        })
    }

    fn counted(self) -> &'static str {
        match self {
            After::Exec => "children that slept before they called exec",
            After::Exit => "children that never called exec",
        }
    }
}

/// Starts children that sleep before they call exec or exit, one after another, until the soak is
/// over.
pub(crate) fn start_children(done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let after = After::random();
        run(&mut command(after, None), after);
        std::thread::sleep(Duration::from_millis(fastrand::u64(1..40)));
    }
}

/// Runs the child, and returns once it has ended. Reports an end other than `after`.
fn run(command: &mut Command, after: After) {
    let status = command.status();
    if status.is_ok() == (after == After::Exec) {
        count(after.counted());
    } else {
        print(&format!(
            "wrong end of a child, expected {after:?}: {status:?}"
        ));
    }
}

/// A command whose child writes one byte to `started`, sleeps, and then calls exec or ends.
#[expect(
    unsafe_code,
    reason = "only pre_exec delays a child before it calls exec"
)]
fn command(after: After, started: Option<PipeWriter>) -> Command {
    let mut command = Command::new("true");
    // The child must not inherit the worker's stdout: after a kill of the worker, the supervisor
    // waits until that pipe is closed.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let delay = after.delay();
    // SAFETY: write(2) and nanosleep(2) are system calls that take no lock and allocate nothing. An
    // error that is made from a number takes no lock and allocates nothing either.
    unsafe {
        command.pre_exec(move || {
            if let Some(mut started) = started.as_ref() {
                started.write_all(b"s")?;
            }
            std::thread::sleep(delay);
            match after {
                After::Exec => Ok(()),
                // The standard library reports the error to the parent, and ends the child by
                // _exit(2).
                After::Exit => Err(io::Error::from_raw_os_error(
                    rustix::io::Errno::CANCELED.raw_os_error(),
                )),
            }
        })
    };
    command
}

/// Each worker has its own number for [`reserve_again`], below every range that the soak sets. No
/// other reservation uses these numbers.
pub(crate) const AGAIN: std::ops::Range<u16> = 10_000..15_000;

/// Releases an exact number while a forked child shares it, and reserves it again at once. The
/// library must retry until the child has called exec or ended.
pub(crate) fn reserve_again(worker: usize) {
    let port = AGAIN.start + (worker % AGAIN.len()) as u16;
    let options = ReserveOptions::new().label("again").port(port);
    let options = match fastrand::u8(..3) {
        0 => options,
        1 => options.udp(),
        _ => options.reuse_addr(false),
    };
    let begun = now();
    let first = match options.clone().reserve() {
        Ok(first) => first,
        Err(e) => return report_refused(begun, "again", &e),
    };
    report_held(begun, std::slice::from_ref(&first));
    // In about half of the calls, the child shares the listener of a server too.
    let server: Option<TcpListener> = first.listen().ok().filter(|_| fastrand::bool());
    let after = After::random();
    let Ok((mut reader, writer)) = io::pipe() else {
        return;
    };
    let mut child = command(after, Some(writer));
    std::thread::scope(|scope| {
        scope.spawn(move || run(&mut child, after));
        let mut byte = [0];
        let shares = reader.read(&mut byte).is_ok_and(|length| length == 1);
        drop(server);
        report_ended(&first);
        drop(first);
        let begun = now();
        match options.reserve() {
            Ok(again) => {
                report_held(begun, std::slice::from_ref(&again));
                // Without a retry, a reservation takes less than 5 ms.
                if shares && now() - begun > 5 * MILLISECOND {
                    count("numbers reserved again after a forked child had released them");
                }
                report_ended(&again);
            }
            Err(e) => report_refused(begun, "again", &e),
        }
    });
}
