//! A worker process: reserves, serves, starts children, releases, and prints a line for each.

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portlease::{Reservation, ReserveOptions};

use crate::clock::{MILLISECOND, now};
use crate::forks;
use crate::report::{is_leased, level, print, report_ended, report_held, report_refused};
use crate::server::{self, Retry};
use crate::sweeper;

/// The kinds of reservations, with their names in the summary.
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

/// Exact ports that all workers wait for: one in the ephemeral range, and two outside.
const EXACT: [u16; 3] = [40_123, 61_234, 20_345];

/// How long a worker waits for an exact port. Its holders may be suspended or starved, but release
/// it within a second.
const WAIT: Duration = Duration::from_secs(60);

/// The first workers are never killed, and print what they use.
pub(crate) const LONG_LIVED: usize = 2;

struct Held {
    kind: &'static str,
    reservations: Vec<Reservation>,
    since: u64,
    until: u64,
}

pub(crate) fn work(number: usize) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The read returns when the supervisor closes the pipe or exits.
            let _line = io::stdin().read_line(&mut String::new());
            done.store(true, Ordering::Relaxed);
        });
        let spawns = number >= LONG_LIVED && number % 2 == 1;
        // Two threads, so that two children can share the same sockets and lock files at once.
        let forks = number >= LONG_LIVED && number % 4 == 2;
        if forks {
            (0..2).for_each(|_| drop(scope.spawn(|| forks::start_children(&done))));
        }
        let retry = if spawns || forks {
            Retry::WhileInUse
        } else {
            Retry::Never
        };
        if spawns {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _spawned = Command::new("true").status();
                    std::thread::sleep(Duration::from_millis(3));
                }
            });
        }
        // The library keeps one Unix socket since its first check of a port without a reservation.
        // In a worker such a check comes late, with the first refusal that has no lease. The check
        // here keeps that socket from being counted as a leak.
        let _free = portlease::is_port_free(forks::AGAIN.start - 1);
        let mut held: Vec<Held> = Vec::new();
        for round in 0u64.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            if held.len() < 5 && fastrand::bool() {
                held.extend(reserve(held.iter().all(|held| held.kind != "exact")));
            }
            if number >= LONG_LIVED && fastrand::u8(..) < 2 {
                reserve_by_command();
            }
            if fastrand::u8(..) < 8 {
                let all = held.iter().flat_map(|held| {
                    let leased = held.reservations.iter().filter(|one| is_leased(one));
                    leased.map(|one| (held.since, one))
                });
                sweeper::check_listed(all);
            }
            // A worker that holds an exact port must release it soon.
            if forks && fastrand::u8(..) < 16 && held.iter().all(|held| held.kind != "exact") {
                forks::reserve_again(number);
            }
            if !held.is_empty() {
                serve(&held[fastrand::usize(..held.len())], retry);
            }
            let time = now();
            while let Some(at) = held.iter().position(|held| held.until < time) {
                release(held.swap_remove(at));
            }
            if round.is_multiple_of(16) {
                held.drain(..).for_each(release);
                if number < LONG_LIVED {
                    let open = descriptors();
                    let (length, open) = (open.len(), open.join(","));
                    print(&format!("idle {} {length} {} {open}", now(), resident()));
                }
            }
        }
        held.drain(..).for_each(release);
    });
}

/// A worker that holds an exact port must not wait for another: two such workers would deadlock.
fn reserve(may_wait: bool) -> Option<Held> {
    let (kind, name) = KINDS[fastrand::usize(..KINDS.len())];
    if kind == Kind::Exact && !may_wait {
        return None;
    }
    // A worker that got an exact port by chance would wait for itself.
    let others = EXACT.into_iter().chain(forks::AGAIN);
    let any = ReserveOptions::new().label(name).exclude(others);
    let begun = now();
    let outcome = match kind {
        Kind::Tcp => any.reserve().map(|one| vec![one]),
        Kind::Udp => any.udp().reserve().map(|one| vec![one]),
        Kind::Pair => any.tcp_and_udp().reserve().map(|one| vec![one]),
        Kind::Block => any.reserve_block(3),
        Kind::Exact => {
            let one = ReserveOptions::new()
                .label(name)
                .port(EXACT[fastrand::usize(..EXACT.len())]);
            one.wait(WAIT).reserve().map(|one| vec![one])
        }
        Kind::Plain => any.reuse_addr(false).reserve().map(|one| vec![one]),
    };
    match outcome {
        Ok(reservations) => {
            report_held(begun, &reservations);
            // A port that others wait for is released soon.
            let longest = if kind == Kind::Exact { 20 } else { 150 };
            let since = now();
            Some(Held {
                kind: name,
                reservations,
                since,
                until: since + fastrand::u64(0..longest) * MILLISECOND,
            })
        }
        Err(e) => {
            report_refused(begun, name, &e);
            None
        }
    }
}

fn serve(held: &Held, retry: Retry) {
    let reservation = &held.reservations[fastrand::usize(..held.reservations.len())];
    let port = reservation.port();
    let began = now();
    let outcome = match held.kind {
        "udp" => server::udp(port, retry),
        "pair" => {
            server::udp(port, retry).and_then(|()| server::by_number(port, true, false, retry))
        }
        "plain" => server::by_number(port, false, false, retry),
        _ if fastrand::u8(..) < 24 => server::by_child(reservation, retry),
        _ => server::by_number(port, true, fastrand::u8(..) < 24, retry),
    };
    let outcome = outcome.map_err(|e| e.to_string()).and_then(|()| {
        let checks = fastrand::u8(..) < 12;
        let check = || {
            portlease::check_port_free(reservation)
                .map_err(|e| format!("not free for its holder: {e}"))
        };
        if checks { check() } else { Ok(()) }
    });
    match outcome {
        Ok(()) => print(&format!("round {}", held.kind)),
        Err(why) => {
            let seen = portlease::who_holds(port)
                .map_or_else(|e| e.to_string(), |holders| holders.to_string());
            let why = format!("{why}; then {seen}").replace('\n', "; ");
            print(&format!(
                "lost {began} {} {} {port} {} {why}",
                now(),
                held.kind,
                level(reservation)
            ));
        }
    }
}

/// Reserves by the command, if it is built. The command's keeper holds the port until this process
/// ends, or until `portlease release`.
fn reserve_by_command() {
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
            return print(
                &format!("lost {began} {} keeper 0 kernel {other:?}", now()).replace('\n', "; "),
            );
        }
    };
    print("round keeper");
    // The other half of the keepers end with this process. `release` may fail: without a record it
    // does not find the keeper.
    if fastrand::bool()
        && let Some(mut release) = command()
    {
        let _released = release.args(["release", &port]).output();
    }
}

fn release(held: Held) {
    for reservation in held.reservations {
        report_ended(&reservation);
    }
}

/// What each descriptor leads to. A socket of the Unix domain is named as such.
fn descriptors() -> Vec<String> {
    let links = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let links = links.flatten().map(|entry| {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        target.display().to_string().replace(' ', "_")
    });
    let links: Vec<String> = links.collect();
    let unix = std::fs::read_to_string("/proc/self/net/unix").unwrap_or_default();
    let is_unix = |link: &str| {
        let inode = link
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        inode.is_some_and(|inode| unix.split_whitespace().any(|word| word == inode))
    };
    let named = |link: String| {
        if is_unix(&link) {
            format!("unix_{link}")
        } else {
            link
        }
    };
    links.into_iter().map(named).collect()
}

/// The resident memory of this process in KiB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
