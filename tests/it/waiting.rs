//! Waiting for a fixed port: how soon it is had, and what the wait costs.

use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::numbers::quiet_number;
use crate::support::{self, Folder, Words};

#[test]
fn a_waiter_has_the_port_soon_after_it_is_let_go() {
    const HAND_OVERS: usize = 200;
    let folder = Folder::new();
    let number = quiet_number();
    let mut agents = [Agent::new(&folder.locks()), Agent::new(&folder.locks())];
    let how = format!("port={number} wait=30000");
    agents[0].reserve(&how).held();
    let mut latencies = Vec::new();
    for round in 0..HAND_OVERS * 2 {
        if latencies.len() == HAND_OVERS {
            break;
        }
        let [holder, waiter] = &mut agents;
        let asked = waiter.ask(&how);
        // A test that is at work for a while.
        let work = 2_000 + fastrand::u64(0..3_000);
        let dropped = holder.command(&format!("drop={number} after={work}"));
        let dropped: u128 = Words::parse(dropped.strip_prefix("dropped ").unwrap())
            .number("at")
            .unwrap();
        let held = waiter.answer().held();
        // Where the waiter came too late to wait, this is no hand-over.
        if asked < dropped {
            assert!(held.at > dropped, "round {round}: had before it was let go");
            latencies.push(Duration::from_nanos((held.at - dropped) as u64));
        }
        agents.swap(0, 1);
    }
    assert_eq!(latencies.len(), HAND_OVERS);
    latencies.sort_unstable();
    let of = |share: f64| latencies[((HAND_OVERS - 1) as f64 * share) as usize];
    support::tell(&format!(
        "{}: {HAND_OVERS} hand-overs: median {:?}, 90 % {:?}, slowest {:?}",
        support::test_name!(),
        of(0.5),
        of(0.9),
        of(1.0)
    ));
    // On a quiet machine the median is to be 2 ms at most. This only tells a poll of tens of milliseconds.
    assert!(of(0.5) < Duration::from_millis(20), "median {:?}", of(0.5));
}

#[test]
fn a_waiter_hardly_uses_the_processor() {
    let folder = Folder::new();
    let (mut holder, mut waiter) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let port = holder.reserve("").held().port();
    // What a process does once, for its first reservation, is not the waiting's.
    waiter.reserve("").held();
    waiter.ask(&format!("port={port} wait=30000"));
    let Some(before) = processor_time(waiter.pid()) else {
        return support::skip(support::test_name!(), "no /proc/self/task/*/schedstat");
    };
    let begun = Instant::now();
    holder.command(&format!("drop={port} after=2000000"));
    let elapsed = begun.elapsed();
    let used = processor_time(waiter.pid()).unwrap() - before;
    waiter.answer().held();
    let share = used.as_secs_f64() / elapsed.as_secs_f64() * 100.0;
    support::tell(&format!(
        "{}: {used:?} of {elapsed:?}, {share:.2} %",
        support::test_name!()
    ));
    // It is to be 1 % at most, in a release build and on a quiet machine.
    assert!(share < 10.0, "{share:.2} %");
}

/// What all threads of a process have used so far.
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
    let number = quiet_number();
    let mut agents: Vec<Agent> = (0..8).map(|_| Agent::new(&folder.locks())).collect();
    std::thread::scope(|scope| {
        for agent in &mut agents {
            scope.spawn(move || {
                for _ in 0..5 {
                    agent.reserve(&format!("port={number} wait=50000")).held();
                    agent.drop(format!("{number} after=1000"));
                }
            });
        }
    });
}

#[test]
fn a_wait_ends_when_the_holder_is_killed() {
    let folder = Folder::new();
    let (mut holder, mut waiter) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let port = holder.reserve("").held().port();
    waiter.ask(&format!("port={port} wait=50000"));
    holder.process().kill();
    let begun = Instant::now();
    waiter.answer().held();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}
