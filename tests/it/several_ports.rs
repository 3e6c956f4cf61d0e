//! Several exact numbers in one call: all or none, in the order asked, without deadlock.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use portlease::{ErrorKind, ReserveOptions};

use crate::support::args::Args;
use crate::support::helper::{self, Helper, Launch};
use crate::support::ports::non_ephemeral_ports;
use crate::support::{DEADLINE, Folder, print_line, test_name};

fn numbers(options: ReserveOptions, n: usize) -> portlease::Result<Vec<u16>> {
    let held = options.reserve_many(n)?;
    Ok(held.iter().map(|r| r.port()).collect())
}

#[test]
fn exact_ports_come_in_the_order_asked_and_any_others_after_them() {
    let ports = non_ephemeral_ports(4);
    let asked = [ports[2], ports[0], ports[3]];
    let new = ReserveOptions::new;
    for kind in [
        new(),
        new().udp(),
        new().tcp_and_udp(),
        new().reuse_addr(false),
    ] {
        assert_eq!(numbers(kind.clone().ports(asked), 3).unwrap(), asked);
        let five = numbers(kind.clone().ports(asked), 5).unwrap();
        assert_eq!(five[..3], asked);
        assert!(
            !five[3..].iter().any(|port| asked.contains(port)),
            "{five:?}"
        );
        assert_eq!(numbers(kind.ports([ports[1]]), 1).unwrap(), [ports[1]]);
    }
    assert_eq!(new().ports([ports[1]]).reserve().unwrap().port(), ports[1]);
    let pair = new().ports([ports[1]]).reserve_block(2).unwrap();
    assert_eq!(pair[1].port(), ports[2]);
}

#[test]
fn one_taken_port_of_several_leaves_none_reserved_and_is_named() {
    let ports = non_ephemeral_ports(3);
    let asked = || ReserveOptions::new().ports([ports[2], ports[0], ports[1]]);
    let taken = ReserveOptions::new().port(ports[1]).reserve().unwrap();
    let error = numbers(asked(), 3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    let expected = format!("cannot reserve {}/tcp: address already in use", ports[1]);
    assert!(error.to_string().starts_with(&expected), "{error}");
    let error = numbers(asked().wait(Duration::from_millis(50)), 3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    for port in [ports[0], ports[2]] {
        drop(ReserveOptions::new().port(port).reserve().unwrap());
    }
    drop(taken);
    assert_eq!(numbers(asked(), 3).unwrap(), [ports[2], ports[0], ports[1]]);
}

#[test]
fn several_ports_that_cannot_be_met_are_an_error_that_says_so() {
    let new = ReserveOptions::new;
    let invalid = |result: portlease::Result<Vec<u16>>, message: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(error.kind(), ErrorKind::InvalidPort);
    };
    invalid(
        numbers(new().ports([20001, 20000, 20001]), 3),
        "port 20001 is requested twice: expected distinct ports",
    );
    invalid(
        numbers(new().ports([20000, 20001]), 1),
        "2 exact ports were requested, but the call reserves 1: expected `reserve_many(2)` or more",
    );
    for n in [1, 2] {
        invalid(
            numbers(new().port(20000).ports([20001]), n),
            "port 20000 was requested with `port`, and port 20001 with `ports`: request all exact \
             ports with `ports`",
        );
    }
    invalid(
        numbers(new().ports([20000, 20001]).exclude([20001]), 2),
        "port 20001 was requested, but `range` or `exclude` rules it out",
    );
    let block = new().ports([20000, 20001]).reserve_block(2);
    assert_eq!(
        block.unwrap_err().to_string(),
        "ports 20000, 20001 were requested, but a block or a list of offsets takes only one exact \
         port: its base number"
    );
    let zero = numbers(new().ports([0, 20000]), 2).unwrap_err();
    assert!(
        zero.to_string().starts_with("port 0 names no port"),
        "{zero}"
    );
}

/// The helper process: `ports=FIRST-LAST rounds=N`. In each round it takes a random subset of the
/// ports, named in random order, and checks that it alone has them.
pub(crate) fn take_subsets(args: &Args) {
    let ports = args.ports("ports");
    let ports: Vec<u16> = (ports[0]..=ports[1]).collect();
    let rounds: u32 = args.number("rounds").unwrap();
    helper::reply("ready");
    helper::next_line();
    let mut longest = Duration::ZERO;
    for _ in 0..rounds {
        let mut subset = ports.clone();
        fastrand::shuffle(&mut subset);
        subset.truncate(fastrand::usize(1..=ports.len()));
        let begun = Instant::now();
        let options = ReserveOptions::new().ports(subset.clone()).wait(DEADLINE);
        let held = match options.reserve_many(subset.len()) {
            Ok(held) => held,
            Err(e) => return helper::reply(&format!("failed {subset:?} {e}")),
        };
        longest = longest.max(begun.elapsed());
        // Two owners of one number could not both listen on it.
        for reservation in &held {
            if let Err(e) = reservation.listen() {
                return helper::reply(&format!("failed {reservation} is not its own: {e}"));
            }
        }
    }
    helper::reply(&format!("done {}", longest.as_millis()));
}

/// Every process takes the numbers in ascending order, so no two wait for each other.
/// `PORTLEASE_TEST_ROUNDS` sets the number of rounds of all processes together.
#[test]
fn processes_that_want_random_subsets_in_random_orders_all_get_through() {
    const PROCESSES: u32 = 16;
    let rounds = std::env::var("PORTLEASE_TEST_ROUNDS").map_or(800, |n| n.parse().unwrap());
    let (folder, ports) = (Folder::new(), non_ephemeral_ports(8));
    let args = format!(
        "ports={}-{} rounds={}",
        ports[0],
        ports[7],
        (rounds / PROCESSES).max(1)
    );
    let launch = || Launch::new("takes-subsets", &folder.locks()).args(args.clone());
    let mut processes: Vec<Helper> = (0..PROCESSES).map(|_| launch().start()).collect();
    for process in &mut processes {
        assert_eq!(process.receive(), "ready");
    }
    let begun = Instant::now();
    processes.iter_mut().for_each(|process| process.send("go"));
    let mut longest = 0;
    for process in &mut processes {
        let reply = process.receive();
        let waited = reply
            .strip_prefix("done ")
            .unwrap_or_else(|| panic!("{reply}"));
        longest = longest.max(waited.parse::<u64>().unwrap());
    }
    print_line(&format!(
        "{}: {rounds} rounds in {:.1?}; the longest wait was {longest} ms",
        test_name!(),
        begun.elapsed()
    ));
}

/// The control: two calls for one port each have no common order. Two threads that each hold the
/// port that the other one waits for make no progress.
#[test]
fn two_calls_in_opposite_orders_wait_for_each_other() {
    let ports = non_ephemeral_ports(2);
    let (both_hold_one, both_have_waited) = (Barrier::new(2), Barrier::new(2));
    let take = |first: u16, second: u16| {
        let _held = ReserveOptions::new().port(first).reserve().unwrap();
        both_hold_one.wait();
        let wait = Duration::from_millis(300);
        let outcome = ReserveOptions::new().port(second).wait(wait).reserve();
        both_have_waited.wait();
        outcome.unwrap_err().kind()
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(|| take(ports[0], ports[1]));
        let other = scope.spawn(|| take(ports[1], ports[0]));
        for thread in [one, other] {
            assert_eq!(thread.join().unwrap(), ErrorKind::TimedOut);
        }
    });
}
