//! Steps of the machine's clock, under libfaketime: it is read again for each look at the time of day, and the
//! monotonic clock stays as it is.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::numbers::quiet_number;
use crate::support::{Folder, Launch, capability, need};

const DAY: &str = "86400";

/// Where Debian has the library.
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

/// A clock that a test sets, in seconds from the machine's.
struct Clock {
    file: PathBuf,
    /// The processes that go by it.
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
        // Whole at once: it is read meanwhile.
        let aside = self.file.with_extension("aside");
        std::fs::write(&aside, format!("{seconds}\n")).unwrap();
        std::fs::rename(&aside, &self.file).unwrap();
    }

    fn agent(&self, launch: Launch) -> Agent {
        let mut agent = Agent::of(launch.innermost([
            format!("LD_PRELOAD={}", library().unwrap().display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "DONT_FAKE_MONOTONIC=1".to_owned(),
            "NO_FAKE_STAT=1".to_owned(),
        ]));
        // It answers: its library has made what it needs.
        agent.command("free=1");
        self.users.borrow_mut().push(agent.pid());
        agent
    }
}

impl Drop for Clock {
    /// The library leaves these behind in a process that is killed, and another user could not start with the number.
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
fn a_wait_lasts_as_long_as_it_says_wherever_the_clock_steps() {
    need!(library());
    const WAIT: Duration = Duration::from_millis(1500);
    for step in [format!("+{DAY}"), format!("-{DAY}")] {
        let folder = Folder::new();
        let clock = Clock::new(&folder);
        let (mut holder, mut waiter) = (
            Agent::new(&folder.locks()),
            clock.agent(Agent::launch(&folder.locks())),
        );
        let port = holder.reserve("").held().port();
        let begun = Instant::now();
        let asked = waiter.ask(&format!("port={port} wait={}", WAIT.as_millis()));
        clock.step(&step);
        waiter.answer().refused("TimedOut");
        let waited = begun.elapsed();
        assert!(waited >= WAIT && waited < WAIT * 20, "{step}: {waited:?}");

        // The control: to the waiter the clock did step.
        let since = waiter.ask("") as i128 - asked as i128;
        waiter.answer().held();
        assert!(
            since.unsigned_abs() > 80_000 * 1_000_000_000,
            "{step}: {since} ns"
        );

        // And the queue moves on: the port is had as soon as it is let go.
        waiter.ask(&format!("port={port} wait=60000"));
        clock.step("+0");
        holder.drop(port);
        let begun = Instant::now();
        waiter.answer().held();
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
            Agent::new(&folder.locks()),
            clock.agent(Agent::launch(&folder.locks())),
        );
        let port = holder.reserve("label=kept").held().port();
        clock.step(&step);
        // Each of these may sweep.
        for _ in 0..300 {
            other.reserve("").held();
            other.drop("all");
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

/// A record that a killed process left says that it is younger than the present one's.
#[test]
fn whose_lease_it_is_does_not_depend_on_the_clock() {
    need!(library(), capability::nobody());
    for nobody_first in [true, false] {
        for created_by_nobody in [true, false] {
            let folder = Folder::new();
            let clock = Clock::new(&folder);
            clock.step(&format!("+{DAY}"));
            let as_user = |nobody: bool, launch: Launch| {
                if nobody {
                    launch.run_by_nobody()
                } else {
                    launch
                }
            };
            let agent = |nobody| Agent::of(as_user(nobody, Agent::launch(&folder.locks())));
            let port = quiet_number();
            // Whose lock file it is decides where the records stand.
            let mut creator = agent(created_by_nobody);
            creator.reserve(&format!("port={port}")).held();
            creator.drop("all");

            let mut early = clock.agent(as_user(nobody_first, Agent::launch(&folder.locks())));
            early
                .reserve(&format!("port={port} label=of-the-dead"))
                .held();
            early.process().kill();
            let mut holder = agent(!nobody_first);
            holder
                .reserve(&format!("port={port} label=of-the-living"))
                .held();
            let lease = creator.command(&format!("lease={port}"));
            let at = format!("nobody first: {nobody_first}, nobody's file: {created_by_nobody}");
            assert!(lease.contains("of-the-living"), "{at}: {lease}");
        }
    }
}
