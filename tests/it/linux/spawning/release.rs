//! Reserving a port again right after its release.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portlease::ReserveOptions;

use super::StopOnDrop;
use crate::support::args::Args;
use crate::support::helper::{self, Launch};
use crate::support::ports::{non_ephemeral_port, non_ephemeral_ports};
use crate::support::{DEADLINE, Folder, eventually, print_line, test_name};

#[test]
fn a_released_exact_port_is_never_refused_beside_threads_that_spawn() {
    let folder = Folder::new();
    let number = non_ephemeral_port();
    let replies = Launch::new("reserves-beside-spawning-threads", &folder.locks())
        .args(format!("port={number}"))
        .start()
        .succeed();
    print_line(&format!("{}: {}", test_name!(), replies.join(" ")));
}

#[test]
fn a_released_range_is_never_refused_beside_threads_that_spawn() {
    let folder = Folder::new();
    let ports = non_ephemeral_ports(4);
    for how in ["many", "block"] {
        let args = format!("range={}-{} how={how}", ports[0], ports[3]);
        let replies = Launch::new("reserves-beside-spawning-threads", &folder.locks())
            .args(args)
            .start()
            .succeed();
        print_line(&format!("{}: {how}: {}", test_name!(), replies.join(" ")));
    }
}

/// A preferred port is retried for a shorter time than an exact one.
#[test]
fn a_released_preferred_port_is_reserved_again_beside_threads_that_spawn() {
    let folder = Folder::new();
    let number = non_ephemeral_port();
    let replies = Launch::new("reserves-beside-spawning-threads", &folder.locks())
        .args(format!("prefer={number}"))
        .start()
        .succeed();
    print_line(&format!("{}: {}", test_name!(), replies.join(" ")));
}

const FEWEST_ROUNDS: u32 = 200;
const MOST_ROUNDS: u32 = 5000;
const SLOW_ROUNDS: u32 = 100;

/// The helper process. A child that is forked during the release shares the claim until it calls
/// exec.
pub(crate) fn reserve_beside_spawning_threads(args: &Args) {
    let reserve = || match args.ports("range")[..] {
        [low, high] => {
            let (range, n) = (
                ReserveOptions::new().range(low..=high),
                usize::from(high - low) + 1,
            );
            if args.get("how") == Some("block") {
                range.reserve_block(n)
            } else {
                range.reserve_many(n)
            }
        }
        _ if args.get("prefer").is_some() => {
            let preferred = args.number("prefer").unwrap();
            let p = ReserveOptions::new().prefer([preferred]).reserve();
            p.inspect(|p| assert_eq!(p.port(), preferred))
                .map(|one| vec![one])
        }
        _ => ReserveOptions::new()
            .port(args.number("port").unwrap())
            .reserve()
            .map(|one| vec![one]),
    };
    let (done, spawned) = (AtomicBool::new(false), std::sync::atomic::AtomicU32::new(0));
    let (mut slowest, mut times, mut retried) = (Duration::ZERO, 0, 0);
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
        let stop = StopOnDrop(&done);
        eventually("children are spawned", DEADLINE, || {
            match spawned.load(Ordering::Relaxed) {
                0 => Err("none yet".to_owned()),
                _ => Ok(()),
            }
        });
        let mut refused = Vec::new();
        // Only a round that meets a forked child tests the retries. Such a round takes more than
        // 1 ms, so the test goes on until there were enough slow rounds.
        while times < MOST_ROUNDS && (times < FEWEST_ROUNDS || retried < SLOW_ROUNDS) {
            let begun = Instant::now();
            match reserve() {
                Ok(reservations) => drop(reservations),
                Err(e) => refused.push(format!("round {times}: {e}")),
            }
            times += 1;
            slowest = slowest.max(begun.elapsed());
            retried += u32::from(begun.elapsed() > Duration::from_millis(1));
        }
        drop(stop);
        assert!(
            refused.is_empty(),
            "{} of {times} refused: {:?}",
            refused.len(),
            refused.first()
        );
    });
    helper::reply(&format!(
        "{times} times, none refused, {} children, {retried} took more than 1 ms, the \
         slowest {slowest:?}",
        spawned.load(Ordering::Relaxed)
    ));
}
