//! Two processes never have the same number.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use portlease::{ErrorKind, ReserveOptions};

use crate::agent::{Agent, own_locks};
use crate::support::{self, Launch, Words};

#[test]
fn a_number_that_another_process_has_is_refused_by_name_and_had_once_it_lets_go() {
    let mut other = Agent::new(&own_locks());
    let port = other.reserve("label=theirs").held().port();
    let error = ReserveOptions::new().port(port).reserve().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    let text = error.to_string();
    assert!(
        text.starts_with(&format!(
            "cannot reserve {port}/tcp: address already in use: reserved by"
        )),
        "{text}"
    );
    assert!(text.contains(&format!("pid {}", other.pid())), "{text}");
    assert!(text.contains("labelled \"theirs\""), "{text}");
    other.drop(port);
    assert_eq!(
        ReserveOptions::new().port(port).reserve().unwrap().port(),
        port
    );
}

#[test]
fn a_protocol_is_no_obstacle_to_the_other() {
    let mut other = Agent::new(&own_locks());
    let port = other.reserve("udp").held().port();
    let error = ReserveOptions::new()
        .udp()
        .port(port)
        .reserve()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    let error = ReserveOptions::new()
        .tcp_and_udp()
        .port(port)
        .reserve()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
}

#[test]
fn processes_that_pick_at_once_get_distinct_numbers() {
    const PROCESSES: usize = 4;
    const EACH: usize = 25;
    for how in ["tcp", "udp", "pair"] {
        let mut agents: Vec<Agent> = (0..PROCESSES).map(|_| Agent::new(&own_locks())).collect();
        for agent in &mut agents {
            agent.ask(&format!("{how} many={EACH}"));
        }
        let ports: Vec<u16> = agents
            .iter_mut()
            .flat_map(|agent| agent.answer().held().ports)
            .collect();
        assert_eq!(ports.len(), PROCESSES * EACH);
        assert_eq!(
            ports.iter().collect::<BTreeSet<_>>().len(),
            ports.len(),
            "{how}: {ports:?}"
        );
    }
}

#[test]
fn whoever_has_one_contested_number_is_alone() {
    const CONTENDERS: usize = 3;
    let port = portlease::reserve_port().port();
    let contender = |_| {
        Launch::new("contender", &own_locks())
            .args(format!("port={port}"))
            .start()
    };
    let contenders: Vec<_> = (0..CONTENDERS).map(contender).collect();
    for contender in contenders {
        let said = contender.succeed();
        assert_eq!(said, ["alone"]);
    }
}

/// Whoever has the number listens on it: a second one who thinks so too cannot.
pub(crate) fn contend(words: &Words) {
    const ROUNDS: usize = 50;
    let port = words.number("port").unwrap();
    for round in 0..ROUNDS {
        let held = ReserveOptions::new()
            .port(port)
            .wait(support::DEADLINE)
            .reserve();
        let held = held.unwrap_or_else(|e| panic!("round {round}: {e:?}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        drop(listener.unwrap_or_else(|e| panic!("round {round}: {e}")));
        drop(held);
    }
    support::say("alone");
}

#[test]
fn a_queue_for_a_number_ends_when_it_is_let_go_and_by_time_when_it_is_not() {
    let mut other = Agent::new(&own_locks());
    let port = other.reserve("").held().port();
    let impatient = ReserveOptions::new()
        .port(port)
        .wait(Duration::from_millis(50))
        .reserve();
    let error = impatient.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot reserve {port}/tcp within 50ms: ")),
        "{error}"
    );
    other.process().tell(&format!("drop={port} after=30000"));
    assert_eq!(
        ReserveOptions::new()
            .port(port)
            .wait(support::DEADLINE)
            .reserve()
            .unwrap()
            .port(),
        port
    );
    assert!(other.process().hear().starts_with("dropped "));
}
