//! Waiting to reserve a port that another process holds.

use std::time::{Duration, Instant};

use portlease::{ErrorKind, ReserveOptions};

use crate::support::args::Args;
use crate::support::ports::non_ephemeral_port;
use crate::support::reserver::Reserver;
use crate::support::{DEADLINE, Folder, own_locks, print_line, skip, test_name};

#[test]
fn a_waiter_gets_the_port_soon_after_its_release() {
    const ROUNDS: usize = 200;
    let folder = Folder::new();
    let number = non_ephemeral_port();
    let mut reservers = [
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    ];
    let how = format!("port={number} wait=30000");
    reservers[0].reserve(&how).held();
    let mut latencies = Vec::new();
    for round in 0..ROUNDS * 2 {
        if latencies.len() == ROUNDS {
            break;
        }
        let [holder, waiter] = &mut reservers;
        let begun = waiter.begin_reserve(&how);
        // Stands for the work of a test.
        let work = 2_000 + fastrand::u64(0..3_000);
        let released = holder.command(&format!("release={number} after={work}"));
        let released: u128 = Args::parse(released.strip_prefix("released ").unwrap())
            .number("at")
            .unwrap();
        let held = waiter.end_reserve().held();
        // A waiter that began after the release did not wait, so this round does not count.
        if begun < released {
            assert!(
                held.at > released,
                "round {round}: held before it was released"
            );
            latencies.push(Duration::from_nanos((held.at - released) as u64));
        }
        reservers.swap(0, 1);
    }
    assert_eq!(latencies.len(), ROUNDS);
    latencies.sort_unstable();
    let of = |share: f64| latencies[((ROUNDS - 1) as f64 * share) as usize];
    print_line(&format!(
        "{}: {ROUNDS} rounds: median {:?}, 90 % {:?}, slowest {:?}",
        test_name!(),
        of(0.5),
        of(0.9),
        of(1.0)
    ));
    // On an idle machine the median should be at most 2 ms. This bound only detects a poll interval
    // of tens of milliseconds.
    assert!(of(0.5) < Duration::from_millis(20), "median {:?}", of(0.5));
}

#[test]
fn a_waiter_uses_little_processor_time() {
    let folder = Folder::new();
    let (mut holder, mut waiter) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
    let port = holder.reserve("").held().port();
    // The first reservation of a process costs more, which is not the cost of waiting.
    waiter.reserve("").held();
    waiter.begin_reserve(&format!("port={port} wait=30000"));
    let Some(before) = processor_time(waiter.pid()) else {
        return skip(test_name!(), "no /proc/self/task/*/schedstat");
    };
    let begun = Instant::now();
    holder.command(&format!("release={port} after=2000000"));
    let elapsed = begun.elapsed();
    let used = processor_time(waiter.pid()).unwrap() - before;
    waiter.end_reserve().held();
    let share = used.as_secs_f64() / elapsed.as_secs_f64() * 100.0;
    print_line(&format!(
        "{}: {used:?} of {elapsed:?}, {share:.2} %",
        test_name!()
    ));
    // The share should be at most 1 % in a release build on an idle machine.
    assert!(share < 10.0, "{share:.2} %");
}

/// The processor time of all threads of a process so far.
fn processor_time(pid: u32) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        sum += Duration::from_nanos(text.split(' ').next()?.parse().ok()?);
    }
    Some(sum)
}

#[test]
fn waiters_in_many_processes_all_get_the_port_one_after_another() {
    let folder = Folder::new();
    let number = non_ephemeral_port();
    let mut reservers: Vec<Reserver> = (0..8).map(|_| Reserver::new(&folder.locks())).collect();
    std::thread::scope(|scope| {
        for reserver in &mut reservers {
            scope.spawn(move || {
                for _ in 0..5 {
                    reserver
                        .reserve(&format!("port={number} wait=50000"))
                        .held();
                    reserver.release(format!("{number} after=1000"));
                }
            });
        }
    });
}

#[test]
fn a_wait_ends_when_the_holder_is_killed() {
    let folder = Folder::new();
    let (mut holder, mut waiter) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
    let port = holder.reserve("").held().port();
    waiter.begin_reserve(&format!("port={port} wait=50000"));
    holder.process().kill();
    let begun = Instant::now();
    waiter.end_reserve().held();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_wait_for_a_port_ends_when_it_is_released_or_times_out() {
    let mut other = Reserver::new(&own_locks());
    let port = other.reserve("").held().port();
    let timed_out = ReserveOptions::new()
        .port(port)
        .wait(Duration::from_millis(50))
        .reserve();
    let error = timed_out.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot reserve {port}/tcp within 50 ms: ")),
        "{error}"
    );
    other.process().send(&format!("release={port} after=30000"));
    assert_eq!(
        ReserveOptions::new()
            .port(port)
            .wait(DEADLINE)
            .reserve()
            .unwrap()
            .port(),
        port
    );
    assert!(other.process().receive().starts_with("released "));
}

#[test]
fn a_wait_that_times_out_reports_the_timeout() {
    let folder = Folder::new();
    let mut holder = Reserver::new(&folder.locks());
    let mut waiter = Reserver::new(&folder.locks());
    let port = holder.reserve("").held().port();
    let begun = Instant::now();
    let message = waiter
        .reserve(&format!("port={port} wait=50"))
        .refused("TimedOut");
    assert!(begun.elapsed() >= Duration::from_millis(50));
    let start = format!("cannot reserve {port}/tcp within 50 ms: address already in use: ");
    assert!(message.starts_with(&start), "{message}");
}

/// Each check of a port locks the lock file for reading, for some microseconds. This test does so
/// for the whole wait.
#[test]
#[cfg(unix)]
fn a_short_wait_beside_a_reader_of_the_lock_file_ends_near_its_limit() {
    let folder = Folder::new();
    let number = non_ephemeral_port();
    let mut reserver = Reserver::new(&folder.locks());
    let how = format!("port={number} wait=10");
    // Creates the lock file.
    reserver.reserve(&how).held();
    reserver.release(number);
    let reader = std::fs::File::open(folder.lock_file(number)).unwrap();
    reader.try_lock_shared().unwrap();
    let started = Instant::now();
    reserver.reserve(&how).refused("TimedOut");
    // A call without a wait retries for 2 s beside a reader.
    let took = started.elapsed();
    assert!(took < Duration::from_millis(1500), "{took:?}");
    reader.unlock().unwrap();
    reserver.reserve(&how).held();
}
