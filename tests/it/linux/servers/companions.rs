//! Servers that need several numbers at fixed distances.

use std::io::{Read, Write};
use std::net::TcpStream;

use portlease::{ReserveOptions, check_port_held_by};

use crate::support::Folder;
use crate::support::need;
use crate::support::program::{Program, command, installed};

#[test]
fn a_redis_cluster_node_starts_with_its_bus_port() {
    need!(installed("redis-server"));
    let folder = Folder::new();
    let [node, bus]: [_; 2] = ReserveOptions::new()
        .label("redis cluster node")
        .reserve_offsets([0, 10000])
        .unwrap()
        .try_into()
        .unwrap();
    let port = node.to_string();
    // The server starts twice on the same two numbers.
    for _ in 0..2 {
        let args = ["--port", &port, "--cluster-enabled", "yes", "--save", ""];
        let mut server = Program::start_in(command("redis-server", &args), folder.path());
        let answer = server.answers(|| {
            let mut connection = TcpStream::connect(&node)?;
            connection.write_all(b"CLUSTER INFO\r\n")?;
            let mut answer = [0; 64];
            let length = connection.read(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
        });
        assert!(answer.contains("cluster_state"), "{answer}");
        for reservation in [&node, &bus] {
            check_port_held_by(reservation, server.process.id()).unwrap();
        }
        assert!(server.stop(), "the server does not end\n{}", server.log());
    }
}
