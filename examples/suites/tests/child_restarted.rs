//! A server that is a child process: stopped, killed and started again on its number.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use portlease::{Reservation, Server};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Stands in for the server program, which a real suite has as `env!("CARGO_BIN_EXE_…")`.
#[test]
#[ignore = "the server of the other tests"]
fn server() {
    let listener = TcpListener::bind(std::env::var("SERVE").unwrap()).unwrap();
    for stream in listener.incoming() {
        write!(stream.unwrap(), "pid {}", std::process::id()).unwrap();
    }
}

fn start(p: Reservation) -> Server {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "server"])
        .env("SERVE", p.addr().to_string())
        .stdout(Stdio::null());
    // If the server exits instead of listening, this fails at once with the exit status.
    p.spawn(command, TIMEOUT).unwrap()
}

fn ask(addr: SocketAddr) -> String {
    let mut answer = String::new();
    TcpStream::connect(addr)
        .unwrap()
        .read_to_string(&mut answer)
        .unwrap();
    answer
}

#[test]
fn a_server_keeps_its_number_when_it_is_killed() {
    let mut server = start(portlease::reserve_port());
    for _ in 0..3 {
        // This server answers, not the server of another test.
        portlease::assert_port_held_by(server.reservation(), server.id());
        assert_eq!(ask(server.addr()), format!("pid {}", server.id()));
        server.kill().unwrap();
        // Between two servers no other process gets the port, and a client is refused.
        assert!(TcpStream::connect(server.addr()).is_err());
        portlease::assert_port_free(server.reservation());
        server.restart().unwrap();
    }
    let p = server.stop().unwrap();
    portlease::assert_port_free(&p);
}

#[test]
fn the_nodes_of_a_cluster_know_each_others_numbers_before_they_start() {
    let nodes = portlease::reserve_ports::<3>();
    for server in nodes.map(start) {
        assert_eq!(ask(server.addr()), format!("pid {}", server.id()));
    }
}
