//! The reports, word for word. Ports, pids, names and times are those of this process.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use portlease::{Reservation, ReserveOptions, reserve_port};

use crate::support::ports::non_ephemeral_port;
use crate::support::socket::leave_time_wait;
use crate::support::{DEADLINE, capability, eventually, need};

struct Names {
    comm: String,
    pid: u32,
    user: String,
}

fn names() -> Names {
    let comm = std::fs::read_to_string("/proc/self/comm")
        .unwrap()
        .trim_end()
        .to_owned();
    let id = std::process::Command::new("id")
        .arg("-un")
        .output()
        .unwrap();
    Names {
        comm,
        pid: std::process::id(),
        user: String::from_utf8(id.stdout).unwrap().trim_end().to_owned(),
    }
}

fn number_line(port: u16) -> String {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let range: Vec<u16> = range
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    let class = if port >= 49152 {
        "dynamic (RFC 6335)"
    } else {
        "user port (RFC 6335)"
    };
    let place = if (range[0]..=range[1]).contains(&port) {
        "inside"
    } else {
        "outside"
    };
    format!(
        "  the number   {class}, {place} this machine's ephemeral range {}-{}",
        range[0], range[1]
    )
}

/// Replaces the age of the process, which differs from run to run.
fn ageless(text: &str) -> String {
    text.lines()
        .map(|line| match line.split_once(", started ") {
            Some((head, tail)) => {
                format!(
                    "{head}, started AGE ago{}",
                    tail.split_once(" ago").map_or("", |(_, rest)| rest)
                )
            }
            None => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// What reports print of the record of `p`. The crate finds the test's name in the thread's name
/// under `cargo test`, and in a variable under nextest.
fn reserved_by(p: &Reservation, test: &str) -> String {
    let lease = p.holders().unwrap().leases()[0].clone();
    let pid = std::process::id();
    let by = format!(
        "by test report::text::{test} ({}), pid {pid}",
        lease.at().unwrap()
    );
    assert!(
        lease.at().unwrap().starts_with("tests/it/report/text.rs:"),
        "{lease}"
    );
    by
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "process names and the ephemeral range are read from /proc"
)]
fn the_report_of_a_server_reads_like_this() {
    need!(capability::native(), capability::bound_sockets());
    let p = reserve_port();
    let server = p.listen().unwrap();
    leave_time_wait(&server);
    let dial = || {
        let client = TcpStream::connect(&p).unwrap();
        let accepted = server.accept().unwrap();
        (client, accepted)
    };
    let connections = [dial(), dial(), dial()];
    let Names { comm, pid, user } = names();
    let reserved = reserved_by(&p, "the_report_of_a_server_reads_like_this");
    let mut peers: Vec<SocketAddr> = connections
        .iter()
        .map(|(client, _)| client.local_addr().unwrap())
        .collect();
    peers.sort();
    let first = peers[0];
    let text = ageless(&portlease::check_port_free(&p).unwrap_err().to_string());
    assert_eq!(
        text,
        format!(
            "\
port {p}/tcp is in use: {comm} (pid {pid}) listens on 127.0.0.1:{p}
  listening    127.0.0.1:{p}    {comm}, pid {pid}, user {user}, started AGE ago, this process
  connected    127.0.0.1:{p} <- {first}    {comm}, pid {pid} (and 2 more)
  TIME_WAIT    1 connection, no process; they end within 60 s
  reserved     {reserved}
help: close the socket: this process has it, or reserve another port with reserve_port()"
        )
    );
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "process names and the ephemeral range are read from /proc"
)]
fn the_report_of_an_outgoing_port_reads_like_this() {
    need!(capability::native(), capability::bound_sockets());
    let p = reserve_port();
    let server = p.listen().unwrap();
    let client = TcpStream::connect(&p).unwrap();
    let _accepted = server.accept().unwrap();
    let from = client.local_addr().unwrap();
    let port = from.port();
    let Names { comm, pid, user } = names();
    let number = number_line(port);
    let text = ageless(&portlease::check_port_free(port).unwrap_err().to_string());
    // The port may be in TIME_WAIT towards another address too.
    let text: String = text
        .lines()
        .filter(|l| !l.starts_with("  TIME_WAIT"))
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(
        text,
        format!(
            "\
port {port}/tcp is in use: outgoing connection of {comm} (pid {pid}) to 127.0.0.1:{p}
  outgoing     {from} -> 127.0.0.1:{p}    {comm}, pid {pid}, user {user}, started AGE ago, this \
process
{number}
help: close the socket: this process has it, or keep later outgoing connections off the port with \
sysctl -w net.ipv4.ip_local_reserved_ports={port}, or reserve another port with reserve_port()"
        )
    );
}

/// A client that retries can get the number of its missing server as its own.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "process names are read from /proc")]
fn a_client_that_is_connected_to_itself_is_recognized() {
    need!(capability::native());
    let addr = SocketAddr::from(([127, 0, 0, 1], non_ephemeral_port()));
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    client.bind(&addr.into()).unwrap();
    client.connect(&addr.into()).unwrap();
    let Names { comm, pid, .. } = names();
    let text = portlease::check_port_free(addr).unwrap_err().to_string();
    let expected = format!(
        "port {addr}/tcp is in use: {comm} (pid {pid}) is a client that is connected to itself\n"
    );
    assert!(text.starts_with(&expected), "{text}");
    assert!(text.contains("  outgoing "), "{text}");
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "process names and the ephemeral range are read from /proc"
)]
fn the_reports_of_a_reserved_port_read_like_this() {
    need!(capability::native(), capability::bound_sockets());
    let p = reserve_port();
    let Names { comm, pid, .. } = names();
    let test = "the_reports_of_a_reserved_port_read_like_this";
    let (reserved, number) = (reserved_by(&p, test), number_line(p.port()));
    assert_eq!(
        portlease::check_port_listening(&p).unwrap_err().to_string(),
        format!(
            "\
port 127.0.0.1:{p}/tcp is not listening: reserved {reserved}
  reserved     {reserved}
help: start the server if it does not run, and wait for the server with \
wait_until_listening(\"127.0.0.1:{p}/tcp\", ..)"
        )
    );
    assert_eq!(
        format!(
            "{:?}",
            ReserveOptions::new().port(p.port()).reserve().unwrap_err()
        ),
        format!(
            "\
cannot reserve {p}/tcp: address already in use: reserved {reserved}
  reserved     {reserved}
help: use the reservation of the port that this process already has, or drop it first, or reserve \
another port with reserve_port()"
        )
    );
    assert_eq!(
        portlease::diagnose(&p).to_string(),
        format!(
            "\
port {p}/tcp is free: nobody holds it
  reserved     {reserved}
  a server     with SO_REUSEADDR could bind everywhere; without it nowhere
{number}"
        )
    );
    assert_eq!(
        portlease::who_holds(&p).unwrap().to_string(),
        format!("port {p}/tcp: reserved {reserved}\n  reserved     {reserved}")
    );
    let server = p.listen().unwrap();
    let error = p.wait_until_free(Duration::from_millis(20)).unwrap_err();
    assert_eq!(
        ageless(&format!("{error:?}")).lines().collect::<Vec<_>>()[..1],
        [format!(
            "timed out after 20 ms: port {p}/tcp is in use: {comm} (pid {pid}) listens on \
             127.0.0.1:{p}"
        )]
    );
    assert!(
        format!("{error:?}").ends_with(
            "help: close the socket: this process has it, or reserve another port with \
             reserve_port()"
        ),
        "{error:?}"
    );
    drop(server);
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "process names and the ephemeral range are read from /proc"
)]
fn the_report_of_a_port_that_nobody_has_reads_like_this() {
    need!(
        capability::native(),
        capability::bound_sockets(),
        capability::ipv6()
    );
    // The port is not reserved, because a reserved port has a holder. Another test may reserve the
    // same port for a moment, so this polls.
    eventually("a port without a holder", DEADLINE, || {
        let port = non_ephemeral_port();
        let holders = portlease::who_holds(port).unwrap().to_string();
        let text = portlease::diagnose(port).to_string();
        let matches = holders == format!("port {port}: nobody holds it")
            && text.starts_with(&format!("port {port}/tcp is free: nobody holds it\n"))
            && text.contains(
                "\n  a server     could bind everywhere, with SO_REUSEADDR and without\n",
            );
        if matches {
            Ok(())
        } else {
            Err(format!("{holders}\n{text}"))
        }
    });
}
