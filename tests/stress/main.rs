//! The main job under load. Each round reserves a port, starts a server on it by number, checks
//! which server answers, stops it, starts it again, and releases the port. Meanwhile a neighbour
//! connects out and binds port 0 without a pause. On Linux all of it runs in a namespace with 512
//! ephemeral ports.
//!
//! `PORTLEASE_STRESS_SECONDS` is how long each variant runs. A round that is lost for any reason
//! fails the variant. The control does the same rounds in the same place. It picks each port by
//! `bind(0)` and closes that socket before the server starts.
#![allow(clippy::unwrap_used, reason = "a failing test names the line")]

#[path = "../support/load.rs"]
mod load;
mod overlap;
mod round;
#[allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses only a part of the shared code"
)]
#[path = "../support/mod.rs"]
mod support;
#[cfg(target_os = "linux")]
mod used_up;

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use round::{
    Kind, check, exact_round, is_refused_restart, picked_round, reserved_round, restarts_refused,
};
use support::args::Args;
use support::helper::{self, EPHEMERAL_LOW, Helper, Launch};
use support::{Folder, capability, need};

const EPHEMERAL_PORTS: u16 = 512;

/// The port that the neighbour connects to, outside the ephemeral range of the namespace.
const NEIGHBOUR: u16 = EPHEMERAL_LOW + EPHEMERAL_PORTS + 1000;

/// The exact ports that processes wait for: one outside the ephemeral range, one inside.
const EXACT: [u16; 2] = [NEIGHBOUR + 1, EPHEMERAL_LOW + 101];

/// The port of the servers that restart without any load, and the number of these restarts.
const ALONE: u16 = NEIGHBOUR + 2;
const RESTARTS: usize = 200;

/// The rounds of a variant, at least. Fewer prove nothing, so the processes go on for some time
/// after the variant's time is over.
const MIN_ROUNDS: usize = 400;

/// Runs a helper process of the tests, if this process is one. It tests nothing.
#[test]
fn helper_process() {
    let Some((name, args)) = helper::requested() else {
        return;
    };
    match name.as_str() {
        "namespace" => run_variant(&args),
        "worker" => work(&args),
        "neighbour" => disturb(),
        "overlap" => overlap::overlap_in_namespace(&args),
        "contender" => overlap::contend(&args),
        #[cfg(target_os = "linux")]
        "used-up" => used_up::connect_beside_reservers(&args),
        #[cfg(target_os = "linux")]
        "used-up-worker" => used_up::reserve(&args),
        other => panic!("no such helper: {other}"),
    }
}

#[test]
fn four_processes_of_eight_threads_lose_no_round() {
    under_load(support::test_name!(), "processes=4 threads=8");
}

#[test]
fn sixty_processes_of_one_thread_lose_no_round() {
    under_load(support::test_name!(), "processes=60 threads=1");
}

#[test]
#[cfg_attr(not(unix), ignore = "without fork a child shares nothing")]
fn no_round_is_lost_beside_spawning_threads_checkers_and_waiters() {
    under_load(
        support::test_name!(),
        "processes=4 threads=6 spawners=1 checkers=1 waiters=2",
    );
}

#[test]
fn udp_servers_by_number_lose_no_round() {
    under_load(support::test_name!(), "processes=4 threads=8 kind=udp");
}

#[test]
fn servers_without_so_reuseaddr_lose_no_round() {
    under_load(support::test_name!(), "processes=4 threads=8 kind=plain");
}

#[test]
fn servers_of_both_protocols_on_one_number_lose_no_round() {
    under_load(support::test_name!(), "processes=4 threads=8 kind=pair");
}

/// Where every port is ephemeral, only a claim keeps a port. The other reservations are best
/// effort, and say so. The rounds that they lose are counted, and do not fail the test.
#[test]
fn where_every_port_is_ephemeral_best_effort_rounds_can_be_lost() {
    need!(capability::network_namespace());
    let all_ephemeral = |launch: Launch| {
        launch
            .in_network("ip link set lo up")
            .setup("echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range")
    };
    for kind in ["tcp", "udp", "plain", "pair"] {
        let args = format!("processes=4 threads=8 kind={kind} all-ephemeral=1");
        run_in(
            &format!("{} {kind}", support::test_name!()),
            &args,
            all_ephemeral,
        );
    }
}

/// Runs a variant in a namespace with few ports. A system without namespaces runs it among all
/// ports of the machine, where the control loses fewer rounds, or none in a short time.
fn under_load(test: &str, args: &str) {
    if !cfg!(target_os = "linux") {
        return run_in(test, &format!("{args} many=1"), |launch| launch);
    }
    if let Err(reason) = capability::network_namespace() {
        return support::skip(test, &reason);
    }
    run_in(test, args, |launch| {
        launch.with_ephemeral_ports(EPHEMERAL_PORTS)
    });
}

/// How long a variant runs.
fn seconds() -> f64 {
    std::env::var("PORTLEASE_STRESS_SECONDS").map_or(0.2, |text| text.parse().unwrap())
}

fn run_in(test: &str, args: &str, network: impl FnOnce(Launch) -> Launch) {
    let seconds = seconds();
    let folder = Folder::new();
    // One variant at a time: they would compete for the processors.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let launch = Launch::new("namespace", &folder.locks())
        .args(format!("{args} millis={}", (seconds * 1000.0) as u64));
    let mut child = network(launch).start();
    // Until it is done, the helper sends only `working`.
    let mut report = Vec::new();
    let end = Instant::now() + Duration::from_secs_f64(seconds * 2.0) + support::DEADLINE;
    while Instant::now() < end {
        match child.receive_or_end() {
            Some(line) if line == "working" => {}
            Some(line) => report.push(line),
            None => break,
        }
    }
    for line in &report {
        support::print_line(&format!("stress: {test}: {line}"));
    }
    child.succeed();
}

/// The rounds of some processes.
#[derive(Debug, Default)]
struct RoundCounts {
    rounds: u64,
    lost: u64,
    /// Rounds that ended at the restart of a server without SO_REUSEADDR, on a kernel that refuses
    /// such restarts by itself. They do not count as lost.
    refused: u64,
    /// Rounds with an exact port, for which a call waited.
    exact: u64,
    /// Why the first lost rounds were lost.
    reasons: Vec<String>,
}

/// The helper process inside the namespace, which starts all others.
fn run_variant(args: &Args) {
    let millis: u64 = args.number("millis").unwrap();
    let is_plain = Kind::of(args.get("kind").unwrap_or("tcp")) == Kind::Plain;
    let refused = if is_plain {
        restarts_refused(ALONE, RESTARTS)
    } else {
        0
    };
    if refused > 0 {
        helper::reply(&format!(
            "this kernel refuses a restart by its own last connection: {refused} of {RESTARTS}"
        ));
    }
    let begun = Instant::now();
    let ours = run(args, "reserve", millis, refused > 0);
    helper::reply(&format!(
        "{} rounds, {} lost; {} rounds had an exact port, {} were refused by their own last \
         connection; {:.0} rounds/s",
        ours.rounds,
        ours.lost,
        ours.exact,
        ours.refused,
        ours.rounds as f64 / begun.elapsed().as_secs_f64(),
    ));
    for reason in &ours.reasons {
        helper::reply(&format!("lost: {reason}"));
    }
    let begun = Instant::now();
    let control = run(args, "pick", millis, refused > 0);
    helper::reply(&format!(
        "control: {} rounds, {} lost, {:.0} rounds/s",
        control.rounds,
        control.lost,
        control.rounds as f64 / begun.elapsed().as_secs_f64(),
    ));
    assert!(ours.rounds >= MIN_ROUNDS as u64, "{ours:?}");
    if args.get("all-ephemeral").is_some() {
        let claimed = Kind::of(args.get("kind").unwrap_or("tcp")) == Kind::Tcp;
        assert!(ours.lost == 0 || !claimed, "{:#?}", ours.reasons);
        return;
    }
    assert_eq!(ours.lost, 0, "{:#?}", ours.reasons);
    let many = args.get("many").is_some();
    assert!(
        many || control.lost > 0,
        "control: none of {} rounds was lost, so the test proves nothing",
        control.rounds
    );
}

fn run(args: &Args, how: &str, millis: u64, refuses_restarts: bool) -> RoundCounts {
    let folder = Folder::new();
    let mut neighbour = Launch::new("neighbour", &folder.locks()).start();
    assert_eq!(neighbour.receive(), "up");
    let count = |name: &str| args.number::<usize>(name).unwrap_or(0);
    // Waiters reserve ports, so the control, whose threads pick ports, has no waiters.
    let waiters = if how == "reserve" {
        count("waiters")
    } else {
        0
    };
    let args = format!(
        "how={how} kind={} millis={millis} min-rounds={} threads={} \
         spawners={} checkers={} waiters={waiters} refuses-restarts={}",
        args.get("kind").unwrap_or("tcp"),
        MIN_ROUNDS.div_ceil(count("processes")),
        count("threads"),
        count("spawners"),
        count("checkers"),
        u8::from(refuses_restarts),
    );
    let workers: Vec<Helper> = (0..count("processes"))
        .map(|_| {
            Launch::new("worker", &folder.locks())
                .args(args.clone())
                .start()
        })
        .collect();
    let mut counts = RoundCounts::default();
    for mut worker in workers {
        loop {
            let line = worker.receive();
            if line == "working" {
                helper::reply(&line);
                continue;
            }
            if let Some(reason) = line.strip_prefix("lost: ") {
                counts.reasons.push(reason.to_owned());
                continue;
            }
            let reply = Args::parse(&line);
            counts.rounds += reply.number::<u64>("rounds").unwrap();
            counts.lost += reply.number::<u64>("lost").unwrap();
            counts.refused += reply.number::<u64>("refused").unwrap();
            counts.exact += reply.number::<u64>("exact").unwrap();
            break;
        }
        worker.succeed();
    }
    counts.reasons.truncate(10);
    counts
}

/// The helper process: threads that do rounds until the time is over.
fn work(args: &Args) {
    let count = |name: &str| args.number::<usize>(name).unwrap();
    let reserve = args.get("how") == Some("reserve");
    let kind = Kind::of(args.get("kind").unwrap_or("tcp"));
    let end = Instant::now() + Duration::from_millis(args.number("millis").unwrap());
    let done = AtomicBool::new(false);
    let [rounds, lost, refused, exact] = [const { AtomicU64::new(0) }; 4];
    let refuses_restarts = args.get("refuses-restarts") == Some("1");
    let min_rounds: u64 = args.number("min-rounds").unwrap();
    // On a busy machine the time can be over before the minimum of rounds is done.
    let over = || {
        let late = Instant::now().saturating_duration_since(end);
        !late.is_zero()
            && (rounds.load(Ordering::Relaxed) >= min_rounds || late > support::DEADLINE / 3)
    };
    let reasons = Mutex::new(Vec::new());
    let note = |result: Result<(), String>| {
        rounds.fetch_add(1, Ordering::Relaxed);
        if let Err(reason) = result {
            if refuses_restarts && is_refused_restart(&reason) {
                refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            lost.fetch_add(1, Ordering::Relaxed);
            let mut reasons = reasons.lock().unwrap();
            if reasons.len() < 3 {
                reasons.push(reason);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..count("spawners") {
            scope.spawn(|| {
                while !over() {
                    let forking = load::SERVING.write().unwrap();
                    // When spawn returns, the child has called exec.
                    let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
                    drop(forking);
                    assert!(child.wait().unwrap().success());
                }
            });
        }
        for _ in 0..count("checkers") {
            scope.spawn(|| {
                while !over() {
                    check();
                }
            });
        }
        for i in 0..count("waiters") {
            let (note, exact) = (&note, &exact);
            scope.spawn(move || {
                while !over() {
                    note(exact_round(EXACT[i % EXACT.len()]));
                    exact.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let rounders: Vec<_> = (0..count("threads"))
            .map(|_| {
                scope.spawn(|| {
                    while !over() {
                        note(if reserve {
                            reserved_round(kind)
                        } else {
                            picked_round(kind)
                        });
                    }
                })
            })
            .collect();
        // Keeps the parent from timing out.
        scope.spawn(|| {
            let mut sent = Instant::now();
            while !done.load(Ordering::Relaxed) && !over() {
                std::thread::park_timeout(Duration::from_millis(100));
                if sent.elapsed() > Duration::from_secs(5) {
                    helper::reply("working");
                    sent = Instant::now();
                }
            }
        });
        for rounder in rounders {
            rounder.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    for reason in reasons.lock().unwrap().iter() {
        helper::reply(&format!("lost: {reason}"));
    }
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    helper::reply(&format!(
        "rounds={} lost={} refused={} exact={}",
        of(&rounds),
        of(&lost),
        of(&refused),
        of(&exact)
    ));
}

/// The helper process: a neighbour, which runs until its parent is gone.
fn disturb() {
    let number = if cfg!(target_os = "linux") {
        NEIGHBOUR
    } else {
        0
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
    helper::reply("up");
    let gone = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while helper::next_line().is_some() {}
            gone.store(true, Ordering::Relaxed);
        });
        load::disturb(&listener, &gone);
    });
}
