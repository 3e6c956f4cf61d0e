//! Two processes that reserve overlapping sets of ports, over and over.

use std::time::{Duration, Instant};

use portlease::ReserveOptions;

use super::seconds;
use crate::support::args::Args;
use crate::support::helper::{self, EPHEMERAL_LOW, Launch};
use crate::support::{DEADLINE, Folder, capability, need};

/// The rounds of each process for each second of `PORTLEASE_STRESS_SECONDS`.
const ROUNDS_PER_SECOND: f64 = 625.0;

#[test]
fn two_processes_that_want_overlapping_blocks_both_make_progress() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let rounds = (seconds() * ROUNDS_PER_SECOND).ceil();
    let launch = Launch::new("overlap", &folder.locks()).args(format!("rounds={rounds}"));
    launch.with_ephemeral_ports(512).start().succeed();
}

/// The helper process: the parent of both contenders, in a namespace where no other program runs.
pub(crate) fn overlap_in_namespace(args: &Args) {
    let rounds: u32 = args.number("rounds").unwrap();
    let folder = Folder::new();
    let begun = Instant::now();
    let start = |first: u16| {
        Launch::new("contender", &folder.locks())
            .args(format!("first={first} rounds={rounds}"))
            .start()
    };
    let base = EPHEMERAL_LOW + 2000;
    let contenders = [start(base), start(base + 3)];
    for contender in contenders {
        let replies = contender.succeed();
        let slowest: u64 = Args::parse(&replies[0]).number("slowest").unwrap();
        // A round takes microseconds, so this bound detects a process that starves.
        assert!(slowest < 20_000_000, "{replies:?}");
        helper::reply(&format!("{replies:?} in {:?}", begun.elapsed()));
    }
}

/// The helper process: reserves, in turn, a block of six and an exact port inside the other
/// process's block.
pub(crate) fn contend(args: &Args) {
    let first: u16 = args.number("first").unwrap();
    let mut slowest = Duration::ZERO;
    for round in 0..args.number::<u32>("rounds").unwrap() {
        let begun = Instant::now();
        let options = ReserveOptions::new().port(first).wait(DEADLINE);
        let options = if round % 2 == 0 {
            options
        } else {
            options.tcp_and_udp()
        };
        let block = options.reserve_block(6).unwrap();
        let ports: Vec<u16> = block.iter().map(|reservation| reservation.port()).collect();
        assert_eq!(ports, (first..first + 6).collect::<Vec<_>>());
        drop(block);
        drop(
            ReserveOptions::new()
                .port(first + 2)
                .wait(DEADLINE)
                .reserve()
                .unwrap(),
        );
        slowest = slowest.max(begun.elapsed());
    }
    helper::reply(&format!("slowest={}", slowest.as_micros()));
}
