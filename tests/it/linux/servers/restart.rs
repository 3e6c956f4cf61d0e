//! Real servers that start twice on one reserved port, by port number.
//!
//! The reservation is in force from before the first start to after the last stop, and neither
//! start has to release anything first. Each test prints how long each start took until the first
//! answer:
//!
//! ```text
//! cargo test --test it linux::servers::restart -- --nocapture
//! ```

use std::io::{Error, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use portlease::{ErrorKind, Reservation, ReserveOptions, reserve_port};

use super::postgresql;
use crate::support::program::{Program, command, installed};
use crate::support::{Folder, capability, is_root, need, print_line, test_name};

/// Starts a server twice on a reserved port, in one folder. Both times it must answer `request`
/// with the folder's name: no other server on the machine would.
fn assert_starts_twice(
    test: &str,
    prepare: impl FnOnce(&Path, &str),
    command: impl Fn(&str) -> Command,
    request: &[u8],
) {
    let folder = Folder::new();
    let name = folder.path().file_name().unwrap().to_str().unwrap();
    let p = reserve_port();
    let port = p.to_string();
    prepare(folder.path(), &port);
    let start = || {
        let begun = Instant::now();
        let mut server = Program::start_in(command(&port), folder.path());
        server.answers(|| answer_with(&p, request, name));
        (server, begun.elapsed())
    };

    let (mut server, first) = start();
    assert!(server.stop(), "the server does not end\n{}", server.log());
    let refused = TcpStream::connect(&p).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let taken = ReserveOptions::new().port(p.port()).reserve().unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::InUse, "{taken}");

    let (mut server, second) = start();
    assert!(server.stop(), "the server does not end\n{}", server.log());
    print_line(&format!(
        "{test}: port {port}, {:?}: first answer after {first:.1?}, after a restart {second:.1?}",
        p.guarantee()
    ));
}

/// Sends `request`, and reads until the answer holds `name`.
fn answer_with(p: &Reservation, request: &[u8], name: &str) -> std::io::Result<()> {
    let mut connection = TcpStream::connect(p)?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    connection.write_all(request)?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let n = connection.read(&mut part)?;
        answer.extend_from_slice(&part[..n]);
        if answer.windows(name.len()).any(|w| w == name.as_bytes()) {
            return Ok(());
        }
        if n == 0 {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            return Err(Error::other(format!("another answer: {answer:?}")));
        }
    }
}

const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

fn name_of(folder: &Path) -> &str {
    folder.file_name().unwrap().to_str().unwrap()
}

#[test]
fn redis_server_starts_twice_on_its_port() {
    need!(installed("redis-server"));
    assert_starts_twice(
        test_name!(),
        |_, _| {},
        |port| {
            let args = ["--bind", "127.0.0.1", "--save", "", "--port", port];
            command("redis-server", &args)
        },
        b"PING\r\nCONFIG GET dir\r\n",
    );
}

#[test]
fn nginx_starts_twice_on_its_port() {
    need!(installed("nginx"));
    let configure = |folder: &Path, port: &str| {
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .collect();
        let conf = format!(
            "daemon off; pid nginx.pid; worker_processes 1;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off;\n{temporary}\
             server {{ listen 127.0.0.1:{port}; return 200 {}; }} }}\n",
            name_of(folder)
        );
        std::fs::write(folder.join("nginx.conf"), conf).unwrap();
    };
    assert_starts_twice(
        test_name!(),
        configure,
        |_| command("nginx", &["-e", "stderr", "-c", "nginx.conf", "-p", "."]),
        GET,
    );
}

#[test]
fn postgresql_starts_twice_on_its_port() {
    need!(installed("postgres"), installed("initdb"));
    if is_root() {
        need!(capability::nobody());
    }
    // A simple query has its type, `Q`, and its length in network byte order before its content.
    let query = b"SHOW data_directory";
    let mut request = postgresql::startup();
    request.push(b'Q');
    request.extend_from_slice(&(query.len() as u32 + 5).to_be_bytes());
    request.extend_from_slice(query);
    request.push(0);
    assert_starts_twice(
        test_name!(),
        |folder, _| postgresql::make_database(folder),
        postgresql::server,
        &request,
    );
}

#[test]
fn pythons_http_server_starts_twice_on_its_port() {
    need!(installed("python3"));
    assert_starts_twice(
        test_name!(),
        |folder, _| std::fs::write(folder.join("index.html"), name_of(folder)).unwrap(),
        |port| {
            command(
                "python3",
                &["-m", "http.server", "--bind", "127.0.0.1", port],
            )
        },
        GET,
    );
}

#[test]
fn node_starts_twice_on_its_port() {
    need!(installed("node"));
    let script = |folder: &Path, port: &str| {
        let script = format!(
            "require('http').createServer((_, reply) => reply.end('{}'))\
             .listen({port}, '127.0.0.1')",
            name_of(folder)
        );
        std::fs::write(folder.join("serve.js"), script).unwrap();
    };
    assert_starts_twice(
        test_name!(),
        script,
        |_| command("node", &["serve.js"]),
        GET,
    );
}
