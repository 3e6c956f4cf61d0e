//! 30 tests that run at once, with three kinds of servers: axum in the test's process, a child, and
//! redis-server. Each server is started again three times on its number.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::{Router, routing::get};
use portlease::tokio::{wait_until_free, wait_until_listening};
use portlease::{Server, reserve_port};
use rstest::rstest;

const TIMEOUT: Duration = Duration::from_secs(60);
const RESTARTS: usize = 3;

fn ask(addr: std::net::SocketAddr, request: &[u8], expected: &str) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(request).unwrap();
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    while !String::from_utf8_lossy(&answer).contains(expected) {
        let length = stream.read(&mut part).unwrap();
        assert_ne!(length, 0, "{:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..length]);
    }
}

fn ask_between_restarts(mut server: Server, request: &[u8], expected: impl Fn(&Server) -> String) {
    for restarts in 0..=RESTARTS {
        portlease::assert_port_held_by(server.reservation(), server.id());
        ask(server.addr(), request, &expected(&server));
        if restarts == RESTARTS {
            break;
        }
        if restarts == 1 {
            server.kill().unwrap();
        }
        server.restart().unwrap();
    }
    portlease::assert_port_free(&server.stop().unwrap());
}

#[rstest]
#[tokio::test]
async fn axum_in_process(#[values(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)] round: u8) {
    let p = reserve_port();
    for _ in 0..=RESTARTS {
        let addr = p.addr();
        let server = tokio::spawn(async move {
            let text = format!("round {round}");
            let app = Router::new().route("/", get(|| async { text }));
            axum::serve(tokio::net::TcpListener::bind(addr).await?, app).await
        });
        wait_until_listening(&p, TIMEOUT).await.unwrap();
        let request = move || ask(addr, b"GET / HTTP/1.0\r\n\r\n", &format!("round {round}"));
        tokio::task::spawn_blocking(request).await.unwrap();
        server.abort();
        wait_until_free(&p, TIMEOUT).await.unwrap();
    }
}

/// Stands in for the server program, which a real suite has as `env!("CARGO_BIN_EXE_…")`.
#[test]
#[ignore = "the server of the other tests"]
fn server() {
    let listener = TcpListener::bind(std::env::var("SERVE").unwrap()).unwrap();
    for stream in listener.incoming() {
        write!(stream.unwrap(), "pid {}.", std::process::id()).unwrap();
    }
}

#[rstest]
fn a_child(#[values(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)] _round: u8) {
    let p = reserve_port();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "server"])
        .env("SERVE", p.addr().to_string())
        .stdout(Stdio::null());
    let server = p.spawn(command, TIMEOUT).unwrap();
    ask_between_restarts(server, b"", |server| format!("pid {}.", server.id()));
}

#[rstest]
fn redis(#[values(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)] round: u8) {
    if Command::new("redis-server")
        .arg("--version")
        .output()
        .is_err()
    {
        return skip(&format!("redis-{round}"), "redis-server is not installed");
    }
    let p = reserve_port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &p.to_string(), "--save", ""]);
    let server = p.spawn(quiet(command), TIMEOUT).unwrap();
    ask_between_restarts(server, b"INFO server\r\n", |server| {
        format!("process_id:{}\r\n", server.id())
    });
}

fn quiet(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Reports the test as skipped, as the script `examples/suites/run` does.
fn skip(test: &str, reason: &str) {
    let line = format!("skipped: suites-{test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    if let Some(path) = std::env::var_os("PORTLEASE_SKIPS") {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}
