//! A process of the soak: reserves, serves, starts children, lets go, and says each of it on its standard output.

use std::io::{self, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portlease::{Guarantee, Reservation, ReserveOptions};

use crate::clock::{MILLISECOND, now};
use crate::server::{self, Patience};

/// What is reserved, in the words of the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Pair,
    Block,
    Exact,
    Plain,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Tcp, "tcp"),
    (Kind::Udp, "udp"),
    (Kind::Pair, "pair"),
    (Kind::Block, "block"),
    (Kind::Exact, "exact"),
    (Kind::Plain, "plain"),
];

/// Numbers that all of them queue for: one that the kernel assigns by itself, and two that it does not.
const FIXED: [u16; 3] = [40_123, 61_234, 20_345];

/// How long the queue may take: those who hold a number are stopped and starved, but let it go within the second.
const WAIT: Duration = Duration::from_secs(60);

/// The processes that are never killed, and tell what they use.
pub(crate) const ELDERS: usize = 2;

struct Held {
    kind: &'static str,
    reservations: Vec<Reservation>,
    until: u64,
}

fn say(line: &str) {
    // One write, which a pipe takes whole. Nobody listens any more: the end comes by stdin.
    let _heard = io::stdout().write_all(format!("{line}\n").as_bytes());
}

pub(crate) fn work(number: usize) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The supervisor closes it, or is gone.
            let _line = io::stdin().read_line(&mut String::new());
            done.store(true, Ordering::Relaxed);
        });
        let spawns = number >= ELDERS && number % 2 == 1;
        let patience = if spawns {
            Patience::ForChildren
        } else {
            Patience::None
        };
        if spawns {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _spawned = Command::new("true").status();
                    std::thread::sleep(Duration::from_millis(3));
                }
            });
        }
        let mut held: Vec<Held> = Vec::new();
        for round in 0u64.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            if held.len() < 5 && fastrand::bool() {
                held.extend(reserve(held.iter().all(|held| held.kind != "exact")));
            }
            if number >= ELDERS && fastrand::u8(..) < 2 {
                keep();
            }
            if !held.is_empty() {
                serve(&held[fastrand::usize(..held.len())], patience);
            }
            let over = now();
            while let Some(at) = held.iter().position(|held| held.until < over) {
                let_go(held.swap_remove(at));
            }
            if round.is_multiple_of(16) {
                held.drain(..).for_each(let_go);
                if number < ELDERS {
                    say(&format!("idle {} {} {}", now(), descriptors(), resident()));
                }
            }
        }
        held.drain(..).for_each(let_go);
    });
}

/// Who has a fixed number queues for no other: two who do would wait for each other.
fn reserve(may_queue: bool) -> Option<Held> {
    let (kind, name) = KINDS[fastrand::usize(..KINDS.len())];
    if kind == Kind::Exact && !may_queue {
        return None;
    }
    // Whoever was given a fixed number by chance would queue behind itself.
    let any = ReserveOptions::new().label(name).exclude(FIXED);
    let asked = now();
    let outcome = match kind {
        Kind::Tcp => any.reserve().map(|one| vec![one]),
        Kind::Udp => any.udp().reserve().map(|one| vec![one]),
        Kind::Pair => any.tcp_and_udp().reserve().map(|one| vec![one]),
        Kind::Block => any.reserve_block(3),
        Kind::Exact => {
            let one = ReserveOptions::new()
                .label(name)
                .port(FIXED[fastrand::usize(..FIXED.len())]);
            one.wait(WAIT).reserve().map(|one| vec![one])
        }
        Kind::Plain => any.reuse_addr(false).reserve().map(|one| vec![one]),
    };
    let at = now();
    match outcome {
        Ok(reservations) => {
            for reservation in &reservations {
                let leased = format!("{reservation:?}").contains("leased: true");
                let grade = grade(reservation);
                for protocol in reservation.protocols() {
                    say(&format!(
                        "held {at} {protocol} {reservation} {grade} {leased}"
                    ));
                }
            }
            // A number that others queue for is let go soon.
            let longest = if kind == Kind::Exact { 20 } else { 150 };
            Some(Held {
                kind: name,
                reservations,
                until: at + fastrand::u64(0..longest) * MILLISECOND,
            })
        }
        Err(e) => {
            say(&format!(
                "refused {asked} {at} {name} {:?} {}",
                e.kind(),
                e.to_string().replace('\n', "; ")
            ));
            None
        }
    }
}

fn grade(reservation: &Reservation) -> &'static str {
    match reservation.guarantee() {
        Guarantee::Kernel => "kernel",
        Guarantee::Cooperative => "cooperative",
        _ => "best_effort",
    }
}

fn serve(held: &Held, patience: Patience) {
    let reservation = &held.reservations[fastrand::usize(..held.reservations.len())];
    let port = reservation.port();
    let began = now();
    let outcome = match held.kind {
        "udp" => server::udp(port, patience),
        "pair" => server::udp(port, patience)
            .and_then(|()| server::by_number(port, true, false, patience)),
        "plain" => server::by_number(port, false, false, patience),
        _ if fastrand::u8(..) < 24 => server::by_child(reservation),
        _ => server::by_number(port, true, fastrand::u8(..) < 24, patience),
    };
    let outcome = outcome.map_err(|e| e.to_string()).and_then(|()| {
        let looks = fastrand::u8(..) < 12;
        let check = || {
            portlease::check_port_free(reservation)
                .map_err(|e| format!("not free to its owner: {e}"))
        };
        if looks { check() } else { Ok(()) }
    });
    match outcome {
        Ok(()) => say(&format!("round {}", held.kind)),
        Err(why) => {
            let seen = portlease::who_holds(port)
                .map_or_else(|e| e.to_string(), |holders| holders.to_string());
            let why = format!("{why}; then {seen}").replace('\n', "; ");
            say(&format!(
                "lost {began} {} {} {port} {} {why}",
                now(),
                held.kind,
                grade(reservation)
            ));
        }
    }
}

/// By the command, where it is built: a small process keeps the number until this one ends, or is told to let go.
fn keep() {
    let command = || {
        let program = std::env::current_exe().ok()?.with_file_name("portlease");
        program.is_file().then(|| Command::new(program))
    };
    let Some(mut reserve) = command() else { return };
    let own = std::process::id().to_string();
    let began = now();
    let outcome = reserve.args(["reserve", "--pid", &own]).output();
    let port = match outcome {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        other => {
            return say(
                &format!("lost {began} {} keeper 0 kernel {other:?}", now()).replace('\n', "; ")
            );
        }
    };
    say("round keeper");
    // Half of them are left to end with this process. Without its record, a keeper is not found to be told.
    if fastrand::bool()
        && let Some(mut release) = command()
    {
        let _told = release.args(["release", &port]).output();
    }
}

fn let_go(held: Held) {
    for reservation in held.reservations {
        // Said before: from here on it is anybody's.
        for protocol in reservation.protocols() {
            say(&format!("ended {} {protocol} {reservation}", now()));
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// In KiB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
