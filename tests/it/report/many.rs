//! A call about many ports reports what a call about each of them reports.

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use portlease::{
    ServerKind, check_each_port_free_for, check_each_port_held_by, check_each_port_listening,
    check_port_free, check_port_held_by, check_port_listening, who_holds, who_holds_each,
};

use crate::support::Folder;
use crate::support::helper::Launch;
use crate::support::ports::non_ephemeral_ports;
use crate::support::socket::{self, Reuse};

/// Operands for ports in every state, and the sockets that keep the ports in it.
fn operands() -> (Vec<String>, Box<dyn std::any::Any>) {
    let ports = non_ephemeral_ports(8);
    let at = |index: usize| (Ipv4Addr::LOCALHOST, ports[index]);
    let listener = TcpListener::bind(at(0)).unwrap();
    let client = TcpStream::connect(at(0)).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let other = TcpListener::bind(at(1)).unwrap();
    let udp = UdpSocket::bind(at(7)).unwrap();
    let bound = socket::bind(socket::ANY_V4, ports[3], Reuse::Neither).unwrap();
    let reserved = portlease::ReserveOptions::new().port(ports[4]).reserve();
    let connection_only = TcpListener::bind(at(5)).unwrap();
    let left = TcpStream::connect(at(5)).unwrap();
    let (kept, _) = connection_only.accept().unwrap();
    drop(connection_only);
    // No port is named with both protocols. A report on one protocol names a server of the other
    // one, unless the same call asks for both.
    let tcp = ports[..7].iter().map(|port| format!("{port}/tcp"));
    let mut operands: Vec<String> = tcp.collect();
    operands.push(format!("{}/udp", ports[7]));
    operands.push(format!("127.0.0.1:{}", ports[0]));
    operands.push(format!("127.0.0.2:{}", ports[1]));
    operands.push(format!("{}", client.local_addr().unwrap().port()));
    operands.push("not a port".to_owned());
    let kept = (
        (listener, client, accepted, other, udp, bound),
        (reserved.unwrap(), left, kept),
    );
    (operands, Box::new(kept))
}

/// A report without "started 2 s ago", which changes between two calls.
fn timeless(report: &str) -> String {
    let mut parts = report.split("started ");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once(" ago").unwrap().1
    })
}

#[track_caller]
fn assert_same(
    operands: &[String],
    together: Vec<Result<(), portlease::Diagnosis>>,
    alone: impl Fn(&str) -> Result<(), portlease::Diagnosis>,
) {
    assert_eq!(operands.len(), together.len());
    for (operand, together) in operands.iter().zip(together) {
        let alone = alone(operand);
        let text =
            |result: Result<(), portlease::Diagnosis>| result.map_err(|e| timeless(&e.to_string()));
        assert_eq!(text(together), text(alone), "{operand}");
    }
}

/// In a process of its own: forked children of other tests would share its sockets for a moment.
#[test]
fn the_answers_about_many_ports_are_those_about_each() {
    let folder = Folder::new();
    Launch::new("asks-about-many-ports", &folder.locks())
        .start()
        .succeed();
}

pub(crate) fn ask() {
    let (mut operands, _sockets) = operands();
    let pid = std::process::id();
    let kind = ServerKind::ReuseAddr;
    let free = check_each_port_free_for(&operands, kind, Duration::from_secs(3));
    assert_eq!(
        free.iter().filter(|result| result.is_ok()).count(),
        5,
        "{free:?}"
    );
    assert_same(&operands, free, |operand| check_port_free(operand));
    let listening = check_each_port_listening(&operands);
    assert_same(&operands, listening, |operand| {
        check_port_listening(operand)
    });
    let held = check_each_port_held_by(&operands, pid);
    assert_same(&operands, held, |operand| check_port_held_by(operand, pid));

    let error = who_holds_each(&operands).unwrap_err();
    assert!(error.to_string().contains("not a port"), "{error}");
    operands.pop();
    let all = who_holds_each(&operands).unwrap();
    assert_eq!(all.len(), operands.len());
    for (operand, together) in operands.iter().zip(all) {
        let alone = who_holds(operand.as_str()).unwrap();
        let texts = [&together, &alone].map(|holders| timeless(&holders.to_string()));
        assert_eq!(texts[0], texts[1], "{operand}");
        assert_eq!(together.len(), alone.len(), "{operand}");
        assert_eq!(together.is_complete(), alone.is_complete(), "{operand}");
    }
    assert!(who_holds_each::<u16>([]).unwrap().is_empty());
}
