//! Steps of the wall clock, which libfaketime simulates. libfaketime reads its setting each time a
//! process reads the wall clock. It does not change the monotonic clock.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::helper::Launch;
use crate::support::ports::non_ephemeral_port;
use crate::support::reserver::Reserver;
use crate::support::{Folder, capability, need};

const DAY: &str = "86400";

/// The path of the library in Debian.
fn library() -> Result<PathBuf, String> {
    if cfg!(target_env = "musl") {
        return Err("a program that is linked statically loads no library".to_owned());
    }
    let folders = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    let found = folders
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
        .find(|path| path.is_file());
    found.ok_or_else(|| "libfaketime is not installed".to_owned())
}

/// A wall clock that a test sets. The file has its offset from the machine's clock in seconds.
struct Clock {
    file: PathBuf,
    /// The pids of the processes that read it.
    users: RefCell<Vec<u32>>,
}

impl Clock {
    fn new(folder: &Folder) -> Clock {
        let clock = Clock {
            file: folder.path().join("clock"),
            users: RefCell::default(),
        };
        clock.step("+0");
        clock
    }

    fn step(&self, seconds: &str) {
        // The file is renamed into place, because a process may read it meanwhile.
        let aside = self.file.with_extension("aside");
        std::fs::write(&aside, format!("{seconds}\n")).unwrap();
        std::fs::rename(&aside, &self.file).unwrap();
    }

    fn reserver(&self, launch: Launch) -> Reserver {
        let mut reserver = Reserver::start(launch.innermost([
            format!("LD_PRELOAD={}", library().unwrap().display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "DONT_FAKE_MONOTONIC=1".to_owned(),
            "NO_FAKE_STAT=1".to_owned(),
        ]));
        // Once the process replies, its libfaketime has created the files that `drop` deletes.
        reserver.command("free=1");
        self.users.borrow_mut().push(reserver.pid());
        reserver
    }
}

impl Drop for Clock {
    /// Deletes the files that libfaketime leaves behind when its process is killed. Otherwise
    /// another user's process with the same pid could not start.
    fn drop(&mut self) {
        for pid in self.users.take() {
            for name in [
                format!("faketime_shm_{pid}"),
                format!("sem.faketime_sem_{pid}"),
            ] {
                let _there = std::fs::remove_file(Path::new("/dev/shm").join(name));
            }
        }
    }
}

#[test]
fn a_wait_lasts_its_full_time_though_the_clock_steps() {
    need!(library());
    const WAIT: Duration = Duration::from_millis(1500);
    for step in [format!("+{DAY}"), format!("-{DAY}")] {
        let folder = Folder::new();
        let clock = Clock::new(&folder);
        let (mut holder, mut waiter) = (
            Reserver::new(&folder.locks()),
            clock.reserver(Reserver::launch(&folder.locks())),
        );
        let port = holder.reserve("").held().port();
        let begun = Instant::now();
        let begun_at = waiter.begin_reserve(&format!("port={port} wait={}", WAIT.as_millis()));
        clock.step(&step);
        waiter.end_reserve().refused("TimedOut");
        let waited = begun.elapsed();
        assert!(waited >= WAIT && waited < WAIT * 20, "{step}: {waited:?}");

        // The control: the waiter did see the clock step.
        let since = waiter.begin_reserve("") as i128 - begun_at as i128;
        waiter.end_reserve().held();
        assert!(
            since.unsigned_abs() > 80_000 * 1_000_000_000,
            "{step}: {since} ns"
        );

        // Waiting still works: it ends as soon as the port is released.
        waiter.begin_reserve(&format!("port={port} wait=60000"));
        clock.step("+0");
        holder.release(port);
        let begun = Instant::now();
        waiter.end_reserve().held();
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{step}: {:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn a_clock_that_steps_ends_no_reservation_and_sweeps_no_lock() {
    need!(library());
    for step in [format!("+{DAY}"), format!("-{DAY}")] {
        let folder = Folder::new();
        let clock = Clock::new(&folder);
        let (mut holder, mut other) = (
            Reserver::new(&folder.locks()),
            clock.reserver(Reserver::launch(&folder.locks())),
        );
        let port = holder.reserve("label=kept").held().port();
        clock.step(&step);
        // Each of these may sweep the lock folder.
        for _ in 0..300 {
            other.reserve("").held();
            other.release("all");
        }
        assert!(folder.lock_file(port).exists(), "{step}");
        let lease = other.command(&format!("lease={port}"));
        assert!(lease.contains("kept"), "{step}: {lease}");
        other.reserve(&format!("port={port}")).refused("InUse");
        let report = other.command(&format!("check={port}"));
        assert!(
            report.contains(&format!("pid {}", holder.pid())),
            "{step}: {report}"
        );
    }
}

/// The record of a killed process has a later time than the record of the live holder.
#[test]
fn the_holder_of_a_lease_does_not_depend_on_the_clock() {
    need!(library(), capability::nobody());
    for nobody_first in [true, false] {
        for created_by_nobody in [true, false] {
            let folder = Folder::new();
            let clock = Clock::new(&folder);
            clock.step(&format!("+{DAY}"));
            let as_user = |nobody: bool, launch: Launch| {
                if nobody {
                    launch.run_as_nobody()
                } else {
                    launch
                }
            };
            let reserver =
                |nobody| Reserver::start(as_user(nobody, Reserver::launch(&folder.locks())));
            let port = non_ephemeral_port();
            // The owner of the lock file decides where the records are.
            let mut creator = reserver(created_by_nobody);
            creator.reserve(&format!("port={port}")).held();
            creator.release("all");

            let mut early =
                clock.reserver(as_user(nobody_first, Reserver::launch(&folder.locks())));
            early.reserve(&format!("port={port} label=dead")).held();
            early.process().kill();
            let mut holder = reserver(!nobody_first);
            holder.reserve(&format!("port={port} label=live")).held();
            let lease = creator.command(&format!("lease={port}"));
            let at = format!("nobody first: {nobody_first}, file of nobody: {created_by_nobody}");
            assert!(lease.contains("live"), "{at}: {lease}");
        }
    }
}
