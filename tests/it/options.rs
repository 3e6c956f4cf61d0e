//! Every option, and every bad input with its message.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::{Duration, Instant};

use portlease::{Error, ErrorKind, ReserveOptions};

use crate::agent::Agent;
use crate::numbers::{quiet_number, quiet_range};
use crate::support::{Folder, capability, is_root, need, skip, test_name};

fn port_of(result: portlease::Result<portlease::Reservation>) -> u16 {
    result.unwrap().port()
}

#[test]
fn an_exact_port_is_that_port_or_an_error_that_says_who_has_it() {
    let folder = Folder::new();
    let mut holder = Agent::new(&folder.locks());
    let mut other = Agent::new(&folder.locks());
    let number = quiet_number();
    assert_eq!(
        holder
            .reserve(&format!("port={number} label=redis"))
            .held()
            .ports,
        [number]
    );
    let message = other.reserve(&format!("port={number}")).refused("InUse");
    let start = format!("cannot reserve {number}/tcp: address already in use: ");
    assert!(message.starts_with(&start), "{message}");
    assert!(
        message.contains(&format!("pid {}", holder.pid())),
        "{message}"
    );
    assert!(message.contains("labelled \"redis\""), "{message}");
    assert!(
        message.contains("agent.rs:"),
        "the line of the reserving call: {message}"
    );
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn a_range_is_kept_to() {
    let ports = quiet_range(20);
    let (low, high) = (ports[0], ports[19]);
    for _ in 0..20 {
        let port = port_of(ReserveOptions::new().range(low..=high).reserve());
        assert!((low..=high).contains(&port), "{port}");
        let port = port_of(ReserveOptions::new().range(low..high).reserve());
        assert!((low..high).contains(&port), "{port}");
    }
    let port = port_of(ReserveOptions::new().range(60000..).reserve());
    assert!(port >= 60000, "{port}");
}

#[test]
fn preferred_ports_come_first_in_their_order_and_others_if_none_can_be_had() {
    let ports = quiet_range(3);
    let prefer = || ReserveOptions::new().prefer([ports[2], ports[0]]);
    let first = prefer().reserve().unwrap();
    assert_eq!(first.port(), ports[2]);
    let second = prefer().reserve().unwrap();
    assert_eq!(second.port(), ports[0]);
    let third = prefer().reserve().unwrap();
    assert!(!ports.contains(&third.port()), "{third}");
    // A preferred number need not be in the range.
    drop(first);
    assert_eq!(port_of(prefer().range(30000..=30100).reserve()), ports[2]);
}

#[test]
fn excluded_ports_are_never_reserved() {
    let ports = quiet_range(8);
    let (low, high) = (ports[0], ports[7]);
    let but_one = || {
        ReserveOptions::new()
            .range(low..=high)
            .exclude(ports[1..].iter().copied())
    };
    for _ in 0..10 {
        assert_eq!(port_of(but_one().reserve()), low);
    }
    assert_ne!(
        port_of(ReserveOptions::new().prefer([low]).exclude([low]).reserve()),
        low
    );
}

#[test]
fn many_are_distinct_and_all_or_none() {
    let many = ReserveOptions::new().reserve_many(20).unwrap();
    let distinct: BTreeSet<u16> = many.iter().map(|r| r.port()).collect();
    assert_eq!(distinct.len(), 20);
    let [a, b, c] = portlease::reserve_ports();
    assert_eq!(BTreeSet::from([a.port(), b.port(), c.port()]).len(), 3);

    let ports = quiet_range(8);
    let within = || ReserveOptions::new().range(ports[0]..=ports[7]);
    let taken = ReserveOptions::new().port(ports[3]).reserve().unwrap();
    let error = within().reserve_many(8).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFreePort, "{error}");
    assert_eq!(within().reserve_many(7).unwrap().len(), 7, "some were kept");
    drop(taken);
    assert_eq!(within().reserve_many(8).unwrap().len(), 8);
    assert!(ReserveOptions::new().reserve_many(0).unwrap().is_empty());
}

#[test]
fn a_block_is_consecutive_and_all_or_none() {
    let block = ReserveOptions::new().reserve_block(5).unwrap();
    assert!(
        block
            .windows(2)
            .all(|pair| pair[1].port() == pair[0].port() + 1),
        "{block:?}"
    );

    let ports = quiet_range(10);
    let within = || ReserveOptions::new().range(ports[0]..=ports[9]);
    let taken = ReserveOptions::new().port(ports[5]).reserve().unwrap();
    let error = within().reserve_block(6).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFreePort, "{error}");
    assert!(
        error
            .to_string()
            .starts_with("cannot reserve 6 consecutive ports from "),
        "{error}"
    );
    let five = within().reserve_block(5).unwrap();
    assert_eq!(
        five[0].port(),
        ports[0],
        "only these five are consecutive and free"
    );
    let after = ReserveOptions::new()
        .port(ports[6])
        .reserve_block(4)
        .unwrap();
    assert_eq!(
        after.iter().map(|r| r.port()).collect::<Vec<_>>(),
        ports[6..]
    );
    drop((taken, five, after));
    assert_eq!(within().reserve_block(10).unwrap().len(), 10);
    assert!(ReserveOptions::new().reserve_block(0).unwrap().is_empty());
}

#[test]
fn processes_that_ask_for_overlapping_sets_all_get_them_in_the_end() {
    let folder = Folder::new();
    let ports = quiet_range(8);
    let range = format!("range={}-{}", ports[0], ports[7]);
    let asks = ["many=5", "many=6", "block=4", "many=8"];
    let mut agents: Vec<Agent> = asks.iter().map(|_| Agent::new(&folder.locks())).collect();
    let begun = Instant::now();
    for _ in 0..5 {
        std::thread::scope(|scope| {
            for (agent, ask) in agents.iter_mut().zip(asks) {
                let range = &range;
                scope.spawn(move || {
                    let held = agent.reserve(&format!("{range} {ask} wait=30000")).held();
                    assert_eq!(held.ports.len().to_string(), ask[ask.len() - 1..]);
                    agent.drop("all");
                });
            }
        });
    }
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_wait_that_runs_out_says_so() {
    let folder = Folder::new();
    let mut holder = Agent::new(&folder.locks());
    let mut waiter = Agent::new(&folder.locks());
    let port = holder.reserve("").held().port();
    let begun = Instant::now();
    let message = waiter
        .reserve(&format!("port={port} wait=50"))
        .refused("TimedOut");
    assert!(begun.elapsed() >= Duration::from_millis(50));
    let start = format!("cannot reserve {port}/tcp within 50ms: address already in use: ");
    assert!(message.starts_with(&start), "{message}");
}

#[test]
fn a_label_is_kept() {
    let labelled = ReserveOptions::new()
        .label("redis primary")
        .reserve()
        .unwrap();
    assert_eq!(labelled.label(), Some("redis primary"));
    assert_eq!(portlease::reserve_port().label(), None);
}

#[track_caller]
fn says(error: Error, kind: ErrorKind, message: &str) {
    assert_eq!(error.to_string(), message);
    assert_eq!(error.kind(), kind, "{message}");
}

#[track_caller]
fn invalid<T: std::fmt::Debug>(result: portlease::Result<T>, message: &str) {
    says(result.unwrap_err(), ErrorKind::InvalidPort, message);
}

#[test]
fn port_0_is_an_error_that_says_so() {
    let message =
        "port 0 names no port (to bind(2) it means \"any\"): expected a number from 1 to 65535";
    let options = ReserveOptions::new;
    invalid(options().port(0).reserve(), message);
    invalid(options().prefer([20000, 0]).reserve(), message);
    invalid(options().range(0..=9).reserve(), message);
    invalid(options().port(0).reserve_block(2), message);
    invalid(options().port(0).reserve_many(1), message);
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "they are what is tested")]
fn an_empty_range_is_an_error_that_says_so() {
    let say =
        |ends: &str| format!("range {ends} is empty: expected LOW..=HIGH with 1 <= LOW <= HIGH");
    let options = ReserveOptions::new;
    invalid(
        options().range(20009..=20000).reserve(),
        &say("20009-20000"),
    );
    invalid(options().range(20000..20000).reserve(), &say("20000-19999"));
    invalid(options().range(..0).reserve(), &say("1-?"));
    let beyond = (Bound::Excluded(u16::MAX), Bound::Unbounded);
    invalid(options().range(beyond).reserve(), &say("?-65535"));
    invalid(
        options().range(20009..=20000).reserve_many(2),
        &say("20009-20000"),
    );
    invalid(
        options().range(20009..=20000).reserve_block(2),
        &say("20009-20000"),
    );
}

#[test]
fn a_range_of_excluded_ports_alone_is_an_error_that_says_so() {
    let options = ReserveOptions::new()
        .range(20000..=20003)
        .exclude(20000..=20003);
    invalid(
        options.reserve(),
        "range 20000-20003 holds only excluded ports",
    );
}

#[test]
fn an_exact_port_that_is_ruled_out_is_an_error_that_says_so() {
    let message = "port 20000 is asked for and ruled out, by the range or by an exclusion";
    invalid(
        ReserveOptions::new()
            .port(20000)
            .range(20001..=20009)
            .reserve(),
        message,
    );
    invalid(
        ReserveOptions::new().port(20000).exclude([20000]).reserve(),
        message,
    );
}

#[test]
fn many_that_cannot_fit_are_an_error_that_says_so() {
    let options = ReserveOptions::new;
    let ten = || options().range(20000..=20009);
    let message = "port 20000 cannot be reserved 2 times: ask for a block, or for no exact port";
    invalid(options().port(20000).reserve_many(2), message);
    let message = "11 ports cannot fit in 20000-20009: too few are allowed";
    invalid(ten().reserve_many(11), message);
    invalid(ten().reserve_block(11), message);
    let message = "10 ports cannot fit in 20000-20009: too few are allowed";
    invalid(ten().exclude([20005]).reserve_many(10), message);
    let message = "7 ports cannot fit in 65530-65535: too few are allowed";
    invalid(options().port(65530).reserve_block(7), message);
    let message = "65536 ports cannot fit in 1-65535: too few are allowed";
    invalid(options().reserve_many(65536), message);
    invalid(options().reserve_block(65536), message);
}

#[test]
fn an_address_that_the_machine_does_not_have_is_an_error_that_says_so() {
    let reservation = portlease::reserve_port();
    // Reserved for documentation, RFC 5737.
    let elsewhere = std::net::Ipv4Addr::new(192, 0, 2, 1);
    let error = reservation.listen_on(elsewhere).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "which ports are privileged is read from /proc"
)]
fn a_privileged_port_without_the_right_is_an_error_that_says_so() {
    if is_root() {
        need!(capability::nobody());
    }
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let Some(Ok(first @ 2..)) = first.ok().map(|text| text.trim().parse::<u16>()) else {
        return skip(test_name!(), "no port is privileged here");
    };
    let folder = Folder::new();
    let launch = Agent::launch(&folder.locks());
    let mut agent = Agent::of(if is_root() {
        launch.run_by_nobody()
    } else {
        launch
    });
    let port = first - 1;
    let message = agent
        .reserve(&format!("port={port}"))
        .refused("PermissionDenied");
    let expected = format!(
        "cannot reserve {port}/tcp: permission denied: ports below net.ipv4.ip_unprivileged_port_start, 1024 \
         unless it was changed, take root or CAP_NET_BIND_SERVICE"
    );
    assert_eq!(message, expected);
    let message = agent
        .reserve(&format!("range={port}-{port}"))
        .refused("NoFreePort");
    assert!(message.contains("1 privileged"), "{message}");
}

/// An agent with this `PORTLEASE_RANGE`.
fn behind_firewall(folder: &Folder, range: &str) -> Agent {
    Agent::of(Agent::launch(&folder.locks()).variable("PORTLEASE_RANGE", range))
}

#[test]
fn automatic_picks_come_from_portlease_range() {
    let folder = Folder::new();
    let ports = quiet_range(32);
    let (low, high) = (ports[0], ports[31]);
    let mut agent = behind_firewall(&folder, &format!(" {low} - {high} "));
    for how in ["", "many=4", "block=4", "prefer=19999", "range=1024-65535"] {
        let held = agent.reserve(how).held();
        assert!(
            held.ports.iter().all(|port| (low..=high).contains(port)),
            "{how}: {held:?}"
        );
        agent.drop("all");
    }
    // The numbers that both allow.
    let held = agent.reserve(&format!("range={high}-65535")).held();
    assert_eq!(held.ports, [high]);
    agent.drop("all");
    // An exact port is exempt.
    let outside = quiet_number();
    assert_eq!(
        agent.reserve(&format!("port={outside}")).held().ports,
        [outside]
    );
    let message = agent.reserve("range=19000-19009").refused("InvalidPort");
    assert_eq!(
        message,
        format!("range 19000-19009 has no port within PORTLEASE_RANGE, {low}-{high}")
    );
    let message = agent.reserve("many=33").refused("InvalidPort");
    assert_eq!(
        message,
        format!("33 ports cannot fit in {low}-{high}: too few are allowed")
    );
}

#[test]
fn a_bad_portlease_range_is_an_error_that_names_the_variable() {
    let folder = Folder::new();
    for bad in [
        "",
        "x",
        "20000",
        "0-9",
        "20009-20000",
        "20000-70000",
        "20000..20009",
        "-1-5",
        "+1-5",
        "1-2-3",
    ] {
        let mut agent = behind_firewall(&folder, bad);
        let message = agent.reserve("").refused("InvalidPort");
        let expected = format!(
            "PORTLEASE_RANGE is {bad:?}: expected LOW-HIGH with 1 <= LOW <= HIGH <= 65535, as in 20000-20999"
        );
        assert_eq!(message, expected);
        // An exact port does not depend on it.
        agent.reserve(&format!("port={}", quiet_number())).held();
    }
}

#[test]
fn a_bad_portlease_dir_is_an_error_that_names_the_variable() {
    for bad in ["", "relative/folder"] {
        let mut agent = Agent::new(bad.as_ref());
        let message = agent.reserve("").refused("Lease");
        let expected = format!(
            "cannot use the lock folder {bad:?}: expected an absolute path in PORTLEASE_DIR"
        );
        assert_eq!(message, expected);
        assert_eq!(agent.reserve("port=20000").refused("Lease"), expected);
    }
}

#[test]
fn a_panic_says_the_error_and_the_callers_line() {
    let folder = Folder::new();
    let mut agent = behind_firewall(&folder, "x");
    agent.process().tell("reserve_port");
    assert_eq!(agent.process().hear_or_end(), None);
    let (said, line) = eventually_said(&mut agent, "panicked at ");
    assert!(
        line.replace('\\', "/").contains("tests/it/agent.rs:"),
        "{said}"
    );
    assert!(
        said.contains("PORTLEASE_RANGE is \"x\": expected"),
        "{said}"
    );
}

fn eventually_said(agent: &mut Agent, what: &str) -> (String, String) {
    crate::support::eventually("the panic is reported", crate::support::DEADLINE, || {
        let said = agent.process().said();
        match said.lines().find(|line| line.contains(what)) {
            Some(line) if said.contains("expected") => Ok((said.clone(), line.to_owned())),
            _ => Err(said),
        }
    })
}

#[test]
fn a_used_up_range_is_counted() {
    let taken = ReserveOptions::new().reserve_block(3).unwrap();
    let range = taken[0].port()..=taken[2].port();
    let error = ReserveOptions::new()
        .range(range.clone())
        .reserve()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFreePort);
    let expected = format!(
        "cannot reserve a port from {}-{}: 3 tried: ",
        range.start(),
        range.end()
    );
    assert!(error.to_string().starts_with(&expected), "{error}");
}
