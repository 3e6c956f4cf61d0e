//! Waiting for a fixed port: how soon it is had, and what the wait costs; and taking it again beside spawning threads.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portlease::{Protocol, ReserveOptions};

use crate::agent::Agent;
use crate::guarantee::{quiet_number, quiet_range};
use crate::support::{self, DEADLINE, Folder, Launch, Words, eventually};

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
        let dropped: u128 = Words::parse(dropped.strip_prefix("dropped ").unwrap()).number("at").unwrap();
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
    support::tell(&format!("{}: {used:?} of {elapsed:?}, {share:.2} %", support::test_name!()));
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
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn an_exact_port_let_go_is_never_refused_beside_threads_that_spawn() {
    let folder = Folder::new();
    let number = quiet_number();
    let said = Launch::new("spawner", &folder.locks()).args(format!("port={number}")).start().succeed();
    support::tell(&format!("{}: {}", support::test_name!(), said.join(" ")));
}

#[test]
fn all_ports_of_a_range_let_go_are_never_refused_beside_threads_that_spawn() {
    let folder = Folder::new();
    let ports = quiet_range(4);
    for how in ["many", "block"] {
        let args = format!("range={}-{} how={how}", ports[0], ports[3]);
        let said = Launch::new("spawner", &folder.locks()).args(args).start().succeed();
        support::tell(&format!("{}: {how}: {}", support::test_name!(), said.join(" ")));
    }
}

/// The role. A child that was forked at the moment of the release shares the claim until it execs.
pub(crate) fn re_reserve_beside_spawning_threads(words: &Words) {
    // Several numbers at once are several releases each.
    let times = if words.get("how").is_some() { 1000 } else { 5000 };
    let reserve = || match words.numbers("range")[..] {
        [low, high] => {
            let (range, n) = (ReserveOptions::new().range(low..=high), usize::from(high - low) + 1);
            if words.get("how") == Some("block") { range.reserve_block(n) } else { range.reserve_many(n) }
        }
        _ => ReserveOptions::new().port(words.number("port").unwrap()).reserve().map(|one| vec![one]),
    };
    let (done, spawned) = (AtomicBool::new(false), std::sync::atomic::AtomicU32::new(0));
    let (mut slowest, mut retried) = (Duration::ZERO, 0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let status = Command::new("true").stdin(Stdio::null()).status();
                    assert!(status.unwrap().success());
                    spawned.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        eventually("children are spawned", DEADLINE, || match spawned.load(Ordering::Relaxed) {
            0 => Err("none yet".to_owned()),
            _ => Ok(()),
        });
        let mut refused = Vec::new();
        for round in 0..times {
            let begun = Instant::now();
            match reserve() {
                Ok(reservations) => drop(reservations),
                Err(e) => refused.push(format!("round {round}: {e}")),
            }
            slowest = slowest.max(begun.elapsed());
            retried += u32::from(begun.elapsed() > Duration::from_millis(1));
        }
        done.store(true, Ordering::Relaxed);
        assert!(refused.is_empty(), "{} of {times} refused: {:?}", refused.len(), refused.first());
    });
    support::say(&format!(
        "{times} times, none refused, {} children, {retried} took more than 1 ms, the slowest {slowest:?}",
        spawned.load(Ordering::Relaxed)
    ));
}

/// The role: servers of this process are closed, and looked for at once, beside threads that spawn children.
pub(crate) fn checks_beside_spawning_threads() {
    /// Also when a check fails.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut child = Command::new("true").spawn().unwrap();
                    child.wait().unwrap();
                }
            });
        }
        const ROUNDS: u32 = 300;
        const ROUNDS_AT_MOST: u32 = 5_000;
        let (mut shared, mut rounds) = (0, 0);
        // Until the control has met one too.
        while rounds < ROUNDS || shared == 0 && rounds < ROUNDS_AT_MOST {
            rounds += 1;
            let p = portlease::reserve_port();
            drop(p.listen().unwrap());
            // The control: a bare look meets the listener that a forked child has.
            shared += u32::from(std::net::TcpListener::bind(p.addr()).is_err());
            drop(p.listen().unwrap());
            portlease::assert_port_free(&p);
            drop(p.listen().unwrap());
            p.release().unwrap();
        }
        crate::support::say(&format!("shared={shared} rounds={rounds}"));
    });
}

#[test]
fn a_server_just_closed_is_gone_for_every_check_beside_threads_that_spawn() {
    let folder = Folder::new();
    let said = Launch::new("checker", &folder.locks()).start().succeed();
    support::tell(&format!("{}: {said:?} bare binds were refused", support::test_name!()));
    assert!(!said[0].starts_with("shared=0 "), "the control: no child had a listener, so nothing was shown");
}

/// Then no record tells which of the sockets is the reservation's own.
#[test]
fn a_server_just_closed_is_gone_for_every_check_also_where_the_lock_folder_cannot_be_used() {
    let folder = Folder::new();
    std::fs::write(folder.locks(), "no folder").unwrap();
    let said = Launch::new("checker", &folder.locks()).start().succeed();
    assert!(!said[0].starts_with("shared=0 "), "the control: no child had a listener, so nothing was shown");
}

/// The role: the same over connections of a server with SO_REUSEADDR in TIME_WAIT, which admit the next one.
pub(crate) fn checks_over_time_wait_beside_spawning_threads() {
    let p = portlease::reserve_port();
    let server = p.listen().unwrap();
    let client = std::net::TcpStream::connect(p.addr()).unwrap();
    // The server closes first, and so it has the TIME_WAIT.
    drop(server.accept().unwrap());
    drop((client, server));
    eventually("a connection in TIME_WAIT", DEADLINE, || {
        let holders = portlease::who_holds(&p).unwrap();
        let waits = holders.iter().any(|holder| holder.state == portlease::State::TimeWait);
        if waits { Ok(()) } else { Err(holders.to_string()) }
    });
    let over = AtomicBool::new(false);
    let mut refused = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert!(Command::new("true").status().unwrap().success());
                }
            });
        }
        // Less than a minute, after which nothing is left to be blamed.
        let begun = Instant::now();
        for _ in 0..20_000 {
            if begun.elapsed() > Duration::from_secs(15) {
                break;
            }
            drop(p.listen().unwrap());
            refused.extend(portlease::check_port_free(&p).err().map(|e| e.to_string()));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(refused.is_empty(), "{} refused: {}", refused.len(), refused[0]);
}

#[test]
fn a_server_just_closed_is_not_taken_for_the_time_wait_that_it_left() {
    let folder = Folder::new();
    Launch::new("checker-over-time-wait", &folder.locks()).start().succeed();
}

/// On a starved machine a child can take long to exec. Its copy of what was let go passes all the same.
#[test]
#[expect(unsafe_code, reason = "pre_exec is the way to stop a child before its exec")]
fn a_child_that_is_long_in_coming_to_its_exec_is_waited_for() {
    use std::os::unix::process::CommandExt;
    const STUCK: Duration = Duration::from_millis(1500);
    // A claim with its listener, and a number that is kept by its name alone.
    for options in [ReserveOptions::new(), ReserveOptions::new().udp()] {
        let options = options.port(quiet_number());
        let p = options.clone().reserve().unwrap();
        let (endpoint, port) = (format!("{p}/{}", p.protocols()[0]), p.port());
        let server: OwnedFd = match p.protocols()[0] {
            Protocol::Tcp => p.listen().unwrap().into(),
            _ => p.udp_socket().unwrap().into(),
        };
        let mut child = Command::new("true");
        // SAFETY: nanosleep(2) is a system call that takes no lock and allocates nothing.
        unsafe {
            child.pre_exec(|| {
                std::thread::sleep(STUCK);
                Ok(())
            })
        };
        let starter = std::thread::spawn(move || child.status().unwrap());
        eventually("a child shares the socket", DEADLINE, || {
            let holders = portlease::who_holds(&*endpoint).unwrap();
            let shared = holders.iter().any(|holder| holder.processes.len() > 1);
            if shared { Ok(()) } else { Err(holders.to_string()) }
        });
        let begun = Instant::now();
        drop(server);
        if p.protocols()[0] == Protocol::Tcp {
            portlease::assert_port_free(&p);
        }
        drop(p);
        assert_eq!(options.reserve().unwrap().port(), port);
        assert!(begun.elapsed() > STUCK / 2, "the control: the child was gone already");
        assert!(starter.join().unwrap().success());
    }
}
