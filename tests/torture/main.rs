//! The main job under load: reserve, boot, bind by number, check who answers, stop, start again, let go; beside
//! neighbours that connect out and bind port 0 without a pause, on Linux in a namespace with 512 ephemeral ports.
//!
//! `PORTLEASE_TORTURE_SECONDS` says how long each variant runs; a round that is lost for any reason fails it. The
//! control does the same in the same place with numbers that were picked by `bind(0)` and dropped.
#![allow(clippy::unwrap_used, reason = "a test fails by it, and says where")]

mod contend;
#[path = "../support/load.rs"]
mod load;
#[allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses its part of what they share"
)]
#[path = "../support/mod.rs"]
mod support;

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portlease::{Reservation, ReserveOptions};
use support::{Child, EPHEMERAL_LOW, Folder, Launch, Words, capability, need};

const EPHEMERAL_PORTS: u16 = 512;

/// Outside the ephemeral range of the namespace: what the neighbour connects to, and a number that is waited for; another
/// one is within.
const NEIGHBOUR: u16 = EPHEMERAL_LOW + EPHEMERAL_PORTS + 1000;
const FIXED: [u16; 2] = [NEIGHBOUR + 1, EPHEMERAL_LOW + 101];

/// So many rounds show something, and are done also after the time is over.
const LEAST: usize = 400;

/// Where this binary plays another process; of itself it tests nothing.
#[test]
fn role() {
    let Some((role, words)) = support::part() else {
        return;
    };
    match role.as_str() {
        "namespace" => torture(&words),
        "worker" => work(&words),
        "neighbour" => disturb(),
        "overlap" => contend::overlap_in_namespace(&words),
        "contender" => contend::contend(&words),
        other => panic!("no such role: {other}"),
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
#[cfg_attr(
    not(unix),
    ignore = "what is spawned shares nothing where there is no fork"
)]
fn no_round_is_lost_beside_spawning_threads_lookers_and_waiters() {
    under_load(
        support::test_name!(),
        "processes=4 threads=6 spawners=1 lookers=1 waiters=2",
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

/// Where the kernel assigns every number there is, only a claim keeps one: what else is reserved is best effort, and
/// says so. Measured, not demanded.
#[test]
fn without_quiet_numbers_the_grade_says_that_rounds_can_be_lost() {
    need!(capability::network_namespace());
    let tuned = |launch: Launch| {
        launch
            .in_network("ip link set lo up")
            .setup("echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range")
    };
    for kind in ["tcp", "udp", "plain", "pair"] {
        let args = format!("processes=4 threads=8 kind={kind} tuned=1");
        launched(&format!("{} {kind}", support::test_name!()), &args, tuned);
    }
}

/// In a namespace with few numbers. Where there is no such thing, among all numbers of the machine: the control loses
/// fewer then, or none in a short time.
fn under_load(test: &str, args: &str) {
    if !cfg!(target_os = "linux") {
        return launched(test, &format!("{args} many=1"), |launch| launch);
    }
    if let Err(reason) = capability::network_namespace() {
        return support::skip(test, &reason);
    }
    launched(test, args, |launch| {
        launch.with_ephemeral_ports(EPHEMERAL_PORTS)
    });
}

/// How long a variant runs.
fn seconds() -> f64 {
    std::env::var("PORTLEASE_TORTURE_SECONDS").map_or(0.2, |text| text.parse().unwrap())
}

fn launched(test: &str, args: &str, network: impl FnOnce(Launch) -> Launch) {
    let seconds = seconds();
    let folder = Folder::new();
    // One at a time: they share the processors, not the ports.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let launch = Launch::new("namespace", &folder.locks())
        .args(format!("{args} millis={}", (seconds * 1000.0) as u64));
    let mut child = network(launch).start();
    // It says nothing until it is done.
    let mut said = Vec::new();
    let end = Instant::now() + Duration::from_secs_f64(seconds * 2.0) + support::DEADLINE;
    while Instant::now() < end {
        match child.hear_or_end() {
            Some(line) if line == "working" => {}
            Some(line) => said.push(line),
            None => break,
        }
    }
    for line in &said {
        support::tell(&format!("torture: {test}: {line}"));
    }
    child.succeed();
}

/// The rounds of some processes.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    lost: u64,
    waited: u64,
    /// Why the first ones were lost.
    why: Vec<String>,
}

/// The role: the parent of all others, inside the namespace.
fn torture(words: &Words) {
    let millis: u64 = words.number("millis").unwrap();
    let begun = Instant::now();
    let ours = run(words, "reserve", millis);
    support::say(&format!(
        "{} rounds, {} lost, {} of them with a fixed number, {:.0} rounds/s",
        ours.rounds,
        ours.lost,
        ours.waited,
        ours.rounds as f64 / begun.elapsed().as_secs_f64(),
    ));
    for why in &ours.why {
        support::say(&format!("lost: {why}"));
    }
    let begun = Instant::now();
    let control = run(words, "pick", millis);
    support::say(&format!(
        "control: {} rounds, {} lost, {:.0} rounds/s",
        control.rounds,
        control.lost,
        control.rounds as f64 / begun.elapsed().as_secs_f64(),
    ));
    assert!(ours.rounds >= LEAST as u64, "{ours:?}");
    if words.get("tuned").is_some() {
        let claimed = Kind::of(words.get("kind").unwrap_or("tcp")) == Kind::Tcp;
        assert!(ours.lost == 0 || !claimed, "{:#?}", ours.why);
        return;
    }
    assert_eq!(ours.lost, 0, "{:#?}", ours.why);
    let many = words.get("many").is_some();
    assert!(
        many || control.lost > 0,
        "control: nothing was lost of {} rounds: it proves nothing",
        control.rounds
    );
}

fn run(words: &Words, how: &str, millis: u64) -> Tally {
    let folder = Folder::new();
    let mut neighbour = Launch::new("neighbour", &folder.locks()).start();
    assert_eq!(neighbour.hear(), "up");
    let count = |name: &str| words.number::<usize>(name).unwrap_or(0);
    // Waiters and lookers ask the crate; the control is about the threads that pick.
    let waiters = if how == "reserve" {
        count("waiters")
    } else {
        0
    };
    let args = format!(
        "how={how} kind={} millis={millis} least={} threads={} spawners={} lookers={} waiters={waiters}",
        words.get("kind").unwrap_or("tcp"),
        LEAST.div_ceil(count("processes")),
        count("threads"),
        count("spawners"),
        count("lookers"),
    );
    let workers: Vec<Child> = (0..count("processes"))
        .map(|_| {
            Launch::new("worker", &folder.locks())
                .args(args.clone())
                .start()
        })
        .collect();
    let mut tally = Tally::default();
    for mut worker in workers {
        loop {
            let line = worker.hear();
            if line == "working" {
                support::say(&line);
                continue;
            }
            if let Some(why) = line.strip_prefix("lost: ") {
                tally.why.push(why.to_owned());
                continue;
            }
            let words = Words::parse(&line);
            tally.rounds += words.number::<u64>("rounds").unwrap();
            tally.lost += words.number::<u64>("lost").unwrap();
            tally.waited += words.number::<u64>("waited").unwrap();
            break;
        }
        worker.succeed();
    }
    tally.why.truncate(10);
    tally
}

/// The role: threads that do rounds until the time is over.
fn work(words: &Words) {
    let count = |name: &str| words.number::<usize>(name).unwrap();
    let reserve = words.get("how") == Some("reserve");
    let kind = Kind::of(words.get("kind").unwrap_or("tcp"));
    let end = Instant::now() + Duration::from_millis(words.number("millis").unwrap());
    let done = AtomicBool::new(false);
    let (rounds, lost, waited) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let least: u64 = words.number("least").unwrap();
    // On a machine that is busy with everything else, few rounds are done in time.
    let over = || {
        let late = Instant::now().saturating_duration_since(end);
        !late.is_zero() && (rounds.load(Ordering::Relaxed) >= least || late > support::DEADLINE / 3)
    };
    let why = Mutex::new(Vec::new());
    let note = |result: Result<(), String>| {
        rounds.fetch_add(1, Ordering::Relaxed);
        if let Err(reason) = result {
            lost.fetch_add(1, Ordering::Relaxed);
            let mut why = why.lock().unwrap();
            if why.len() < 3 {
                why.push(reason);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..count("spawners") {
            scope.spawn(|| {
                while !over() {
                    let forking = load::SERVING.write().unwrap();
                    // Back from here, the child has exec'ed.
                    let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
                    drop(forking);
                    assert!(child.wait().unwrap().success());
                }
            });
        }
        for _ in 0..count("lookers") {
            scope.spawn(|| {
                while !over() {
                    look();
                }
            });
        }
        for i in 0..count("waiters") {
            let (note, waited) = (&note, &waited);
            scope.spawn(move || {
                while !over() {
                    note(fixed_round(FIXED[i % FIXED.len()]));
                    waited.fetch_add(1, Ordering::Relaxed);
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
        // A sign of life for whoever waits.
        scope.spawn(|| {
            let mut told = Instant::now();
            while !done.load(Ordering::Relaxed) && !over() {
                std::thread::park_timeout(Duration::from_millis(100));
                if told.elapsed() > Duration::from_secs(5) {
                    support::say("working");
                    told = Instant::now();
                }
            }
        });
        for rounder in rounders {
            rounder.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    for reason in why.lock().unwrap().iter() {
        support::say(&format!("lost: {reason}"));
    }
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    support::say(&format!(
        "rounds={} lost={} waited={}",
        of(&rounds),
        of(&lost),
        of(&waited)
    ));
}

/// The servers of a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// TCP with SO_REUSEADDR.
    Tcp,
    /// TCP without.
    Plain,
    Udp,
    /// TCP with SO_REUSEADDR, and UDP on the same number.
    Pair,
}

impl Kind {
    fn of(name: &str) -> Kind {
        match name {
            "tcp" => Kind::Tcp,
            "plain" => Kind::Plain,
            "udp" => Kind::Udp,
            "pair" => Kind::Pair,
            other => panic!("no such kind: {other}"),
        }
    }

    fn options(self) -> ReserveOptions {
        match self {
            Kind::Tcp => ReserveOptions::new(),
            Kind::Plain => ReserveOptions::new().reuse_addr(false),
            Kind::Udp => ReserveOptions::new().udp(),
            Kind::Pair => ReserveOptions::new().tcp_and_udp(),
        }
    }

    fn serve_once(self, port: u16) -> Result<(), String> {
        if self != Kind::Udp {
            load::serve_tcp_once(port, self != Kind::Plain)?;
        }
        if matches!(self, Kind::Udp | Kind::Pair) {
            load::serve_udp_once(port)?;
        }
        Ok(())
    }
}

/// "No port" is lost too.
fn reserved_round(kind: Kind) -> Result<(), String> {
    let reservation = kind
        .options()
        .reserve()
        .map_err(|e| format!("no port: {e}"))?;
    boot_twice(kind, reservation.port())?;
    drop(reservation);
    Ok(())
}

fn picked_round(kind: Kind) -> Result<(), String> {
    let no_port = |e: io::Error| format!("no port: {e}");
    let any = (Ipv4Addr::LOCALHOST, 0);
    let addr = match kind {
        Kind::Udp => UdpSocket::bind(any).and_then(|socket| socket.local_addr()),
        _ => TcpListener::bind(any).and_then(|socket| socket.local_addr()),
    };
    boot_twice(kind, addr.map_err(no_port)?.port())
}

fn fixed_round(port: u16) -> Result<(), String> {
    let reserved = ReserveOptions::new()
        .port(port)
        .wait(Duration::from_secs(20))
        .reserve();
    let reservation: Reservation = reserved.map_err(|e| format!("no fixed port: {e}"))?;
    load::serve_tcp_once(reservation.port(), true)
}

/// Looks at a number of the range in every way there is. None of them may make a reservation or a server fail.
fn look() {
    let port = EPHEMERAL_LOW + fastrand::u16(0..EPHEMERAL_PORTS);
    // What is found does not matter here.
    match fastrand::u8(0..6) {
        0 => drop(ReserveOptions::new().port(port).reserve()),
        1 => drop(load::bound(port, false)),
        2 => drop(load::bound(port, true)),
        3 => drop(portlease::is_port_free(port)),
        4 => drop(portlease::reservations()),
        _ => drop(portlease::who_holds(port)),
    }
}

/// The role: a neighbour, until its parent is gone.
fn disturb() {
    let number = if cfg!(target_os = "linux") {
        NEIGHBOUR
    } else {
        0
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
    support::say("up");
    let gone = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while support::listen().is_some() {}
            gone.store(true, Ordering::Relaxed);
        });
        load::disturb(&listener, &gone);
    });
}

fn boot_twice(kind: Kind, port: u16) -> Result<(), String> {
    load::boot_twice(port, |port| kind.serve_once(port))
}
