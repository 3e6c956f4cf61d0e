//! A server that is a child process: stopped, killed and started again on its number.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portlease::Reservation;

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

/// Killed when it is dropped.
struct Server(Child);

impl Server {
    fn start(p: &Reservation) -> Server {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "server"])
            .env("SERVE", p.addr().to_string());
        let mut server = Server(command.stdout(Stdio::null()).spawn().unwrap());
        // If the server exits instead of listening, this fails at once with the exit status.
        p.wait_for(&mut server.0, TIMEOUT).unwrap();
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn ask(p: &Reservation) -> String {
    let mut answer = String::new();
    TcpStream::connect(p)
        .unwrap()
        .read_to_string(&mut answer)
        .unwrap();
    answer
}

#[test]
fn a_server_keeps_its_number_when_it_is_killed() {
    let p = portlease::reserve_port();
    for _ in 0..3 {
        let server = Server::start(&p);
        // This server answers, and no other test's.
        portlease::assert_port_held_by(&p, server.0.id());
        assert_eq!(ask(&p), format!("pid {}", server.0.id()));
        drop(server);
        // Between two servers no other process gets the port, and a client is refused.
        assert!(TcpStream::connect(&p).is_err());
        portlease::assert_port_free(&p);
    }
}

#[test]
fn the_nodes_of_a_cluster_know_each_others_numbers_before_they_start() {
    let nodes = portlease::reserve_ports::<3>();
    let servers = nodes.each_ref().map(Server::start);
    for (p, server) in nodes.iter().zip(&servers) {
        assert_eq!(ask(p), format!("pid {}", server.0.id()));
    }
}
