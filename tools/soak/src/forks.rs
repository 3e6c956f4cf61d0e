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

/// Starts such children one after another, until the soak is over.
pub(crate) fn start_children(done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let after = After::random();
        run(&mut command(after, None), after);
        std::thread::sleep(Duration::from_millis(fastrand::u64(1..40)));
    }
}

/// Returns once the child has ended.
fn run(command: &mut Command, after: After) {
    let status = command.status();
    if status.is_ok() == (after == After::Exec) {
        count(after.counted());
    } else {
        print(&format!("wrong a child, {after:?}: {status:?}"));
    }
}

/// A command whose child writes one byte to `started`, sleeps, and then calls exec or ends.
#[expect(
    unsafe_code,
    reason = "only pre_exec delays a child before it calls exec"
)]
fn command(after: After, started: Option<PipeWriter>) -> Command {
    let mut command = Command::new("true");
    // Without the worker's output: the supervisor waits for its end after a kill.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let delay = after.delay();
    // SAFETY: write(2) and nanosleep(2) are system calls that take no lock and allocate nothing,
    // and so does an error from a number.
    unsafe {
        command.pre_exec(move || {
            if let Some(mut started) = started.as_ref() {
                started.write_all(b"s")?;
            }
            std::thread::sleep(delay);
            match after {
                After::Exec => Ok(()),
                // The standard library reports it to the parent, and ends the child by _exit(2).
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
    // The child shares the listener of a server too.
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
                // Without a retry, it takes less than this.
                if shares && now() - begun > 5 * MILLISECOND {
                    count("numbers reserved again after a forked child had released them");
                }
                report_ended(&again);
            }
            Err(e) => report_refused(begun, "again", &e),
        }
    });
}
