//! Two processes that want overlapping sets of numbers, over and over.

use std::time::{Duration, Instant};

use portlease::ReserveOptions;

use super::{seconds, support};
use crate::support::{EPHEMERAL_LOW, Folder, Launch, Words, capability, need};

/// Of each process, for each second that a variant of the torture runs.
const ROUNDS_PER_SECOND: f64 = 625.0;

#[test]
fn two_processes_that_want_overlapping_blocks_and_sets_both_get_on() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let rounds = (seconds() * ROUNDS_PER_SECOND).ceil();
    let launch = Launch::new("overlap", &folder.locks()).args(format!("rounds={rounds}"));
    launch.with_ephemeral_ports(512).start().succeed();
}

/// The parent, in a namespace where no number is anybody else's.
pub(crate) fn overlap_in_namespace(words: &Words) {
    let rounds: u32 = words.number("rounds").unwrap();
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
        let said = contender.succeed();
        let slowest: u64 = Words::parse(&said[0]).number("slowest").unwrap();
        // Neither waits while the other one has many turns: a round takes microseconds.
        assert!(slowest < 20_000_000, "{said:?}");
        support::say(&format!("{said:?} in {:?}", begun.elapsed()));
    }
}

/// One of two: a block of six and an explicit number in the middle of the other's, in turn.
pub(crate) fn contend(words: &Words) {
    let first: u16 = words.number("first").unwrap();
    let mut slowest = Duration::ZERO;
    for round in 0..words.number::<u32>("rounds").unwrap() {
        let begun = Instant::now();
        let options = ReserveOptions::new().port(first).wait(support::DEADLINE);
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
                .wait(support::DEADLINE)
                .reserve()
                .unwrap(),
        );
        slowest = slowest.max(begun.elapsed());
    }
    support::say(&format!("slowest={}", slowest.as_micros()));
}
