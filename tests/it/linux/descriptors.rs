//! A process has no file descriptor left when the crate first queries the system. The query fails,
//! so the crate has no answer of the system that it may keep. Once descriptors are available, the
//! process must get the same answers as any other process.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::Path;

use portlease::{ErrorKind, Reservation, ReserveOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::args::Args;
use crate::support::helper::{self, EPHEMERAL_LOW, Launch};
use crate::support::reserver::Reserver;
use crate::support::socket::{self, Reuse, V4};
use crate::support::{Folder, capability, need};

const FIRST_CALLS: [&str; 4] = ["tcp", "udp", "plain", "who"];

/// With so few ephemeral ports, an automatic pick prefers other ports.
const RANGE: u16 = 16;

/// More descriptors than any first call uses.
const PLENTY: u64 = 16;

#[test]
fn an_answer_given_without_descriptors_is_not_kept() {
    need!(capability::network_namespace());
    let answers = |first: &str, free: u64| {
        let folder = Folder::new();
        let mut process = Launch::new("out-of-descriptors", &folder.locks())
            .args(format!("first={first} free={free}"))
            .with_ephemeral_ports(RANGE)
            .start();
        let answers = (process.receive(), process.receive());
        process.succeed();
        answers
    };
    for first in FIRST_CALLS {
        let (outcome, expected) = answers(first, PLENTY);
        assert_eq!(outcome, "answered", "control");
        let mut refused = 0;
        for free in 0..PLENTY {
            let (outcome, after) = answers(first, free);
            assert_eq!(after, expected, "{first}, {free} descriptors, {outcome}");
            if outcome == "answered" {
                break;
            }
            refused += 1;
        }
        assert!((1..PLENTY).contains(&refused), "{first}: {refused}");
    }
}

/// The helper process.
pub(crate) fn ask_without_descriptors(args: &Args) {
    let first_call = |first: &str| match first {
        "tcp" => ReserveOptions::new().reserve().map(Some),
        "udp" => ReserveOptions::new().udp().reserve().map(Some),
        "plain" => ReserveOptions::new().reuse_addr(false).reserve().map(Some),
        _ => portlease::who_holds(EPHEMERAL_LOW).map(|_| None),
    };
    let outcome = with_free_descriptors(args.number("free").unwrap(), || {
        first_call(args.get("first").unwrap())
    });
    match outcome {
        Ok(Some(reservation)) => {
            // If the record lacked the start time of this process, a child would not see that the
            // port belongs to its parent.
            assert_eq!(free_for_child(&reservation), "true");
            helper::reply("answered");
        }
        Ok(None) => helper::reply("answered"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            assert!(error.to_string().contains("ulimit -n"), "{error}");
            helper::reply(&error.to_string());
        }
    }
    helper::reply(&answers().join("; "));
}

/// Runs `call` while this process can open only `free` more descriptors.
fn with_free_descriptors<T>(free: u64, call: impl FnOnce() -> T) -> T {
    // open(2) returns the lowest number that is not in use.
    let next = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    let before = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: Some(u64::try_from(next).unwrap() + free),
        ..before
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let outcome = call();
    setrlimit(Resource::Nofile, before).unwrap();
    outcome
}

/// The answers that the crate now gives to each query whose answer it keeps.
fn answers() -> Vec<String> {
    let tcp = ReserveOptions::new().reserve().unwrap();
    let udp = ReserveOptions::new().udp().reserve().unwrap();
    let held = portlease::who_holds(tcp.port()).unwrap();
    let unseen = held.unseen();
    let is_ephemeral = |port| (EPHEMERAL_LOW..EPHEMERAL_LOW + RANGE).contains(&port);
    let of_child = free_for_child(&tcp);
    let _rest: Vec<_> = std::iter::from_fn(|| socket::bind(V4, 0, Reuse::Neither).ok()).collect();
    let listener = TcpListener::bind((V4, EPHEMERAL_LOW + 1000)).unwrap();
    let full = portlease::who_holds(listener.local_addr().unwrap().port()).unwrap();
    vec![
        format!("tcp {:?}, udp {:?}", tcp.guarantee(), udp.guarantee()),
        format!("tcp from the small range: {}", is_ephemeral(tcp.port())),
        format!(
            "bound sockets seen: {}",
            !unseen.iter().any(|what| what.contains("bound"))
        ),
        format!("free for a child: {of_child}"),
        format!("range in use: {}", full.ephemeral_usage().is_some()),
        format!("a service's number: {:?}", service_number()),
    ]
}

fn free_for_child(reservation: &Reservation) -> String {
    let locks = std::env::var_os("PORTLEASE_DIR").unwrap();
    Reserver::new(Path::new(&locks)).command(&format!("free={}", reservation.port()))
}

/// Excludes all numbers except one that `/etc/services` lists, and reserves a port. Returns the
/// kind of the error. `None` if the reservation succeeds, or if the file lists no suitable number.
fn service_number() -> Option<ErrorKind> {
    let services = std::fs::read_to_string("/etc/services").unwrap_or_default();
    let mut numbers = services.lines().filter_map(|line| {
        let (number, _) = line.split_whitespace().nth(1)?.split_once('/')?;
        number.parse::<u16>().ok()
    });
    // Lower numbers are in the crate's own list of services, or too low for a pick.
    let number = numbers.find(|number| (20_000..EPHEMERAL_LOW).contains(number))?;
    let only = ReserveOptions::new()
        .udp()
        .exclude(1..number)
        .exclude(number + 1..=u16::MAX);
    only.reserve().err().map(|error| error.kind())
}
