//! Programs that are started on a reserved port, on a runtime of one thread.

use std::process::Stdio;
use std::time::Duration;

use portlease::{ErrorKind, ReserveOptions, reserve_port};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::{DEADLINE, server};

#[tokio::test]
async fn a_server_is_restarted_killed_and_stopped_on_its_number() {
    let p = reserve_port();
    let command = server::command(p.port());
    let mut started = p.spawn_tokio(command, DEADLINE).await.unwrap();
    let (port, mut pids) = (started.port(), vec![started.id()]);
    assert_eq!(started.reservation().addr(), started.addr());
    for _ in 0..2 {
        let client = TcpStream::connect(started.addr()).await.unwrap();
        assert_eq!(started.child().id(), Some(started.id()));
        started.restart().await.unwrap();
        pids.push(started.id());
        drop(client);
    }
    pids.dedup();
    assert_eq!(pids.len(), 3, "{pids:?}");
    started.kill().await.unwrap();
    assert!(TcpStream::connect(started.addr()).await.is_err());
    started.restart().await.unwrap();
    let reservation = started.stop().await.unwrap();
    assert_eq!(reservation.port(), port);
    portlease::assert_port_free(&reservation);
}

/// Requires a future that is `Send`, so that a task of a runtime with several threads can await it.
fn sendable<T: Send>(future: T) -> T {
    future
}

#[tokio::test]
async fn a_dropped_server_and_a_dropped_start_leave_the_number_free() {
    let p = reserve_port();
    let (port, command) = (p.port(), server::command(p.port()));
    drop(p.spawn_tokio(command, DEADLINE).await.unwrap());
    let p = ReserveOptions::new().port(port).reserve().unwrap();
    drop(p.listen().unwrap());

    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "no_such_test"])
        .stdout(Stdio::null());
    let start = sendable(p.spawn_tokio(command, DEADLINE));
    let cancelled = tokio::time::timeout(Duration::ZERO, start).await;
    assert!(cancelled.is_err(), "the program listened: {cancelled:?}");
    drop(ReserveOptions::new().port(port).reserve().unwrap());
}

#[cfg(unix)]
#[tokio::test]
async fn a_program_that_ends_first_is_an_error_with_its_status_and_its_last_lines() {
    let mut command = Command::new("sh");
    command
        .args(["-c", "echo one >&2; echo two >&2; exit 3"])
        .stderr(Stdio::piped());
    let error = reserve_port().spawn_tokio(command, DEADLINE).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let text = error.to_string();
    assert!(text.contains("ended (exit status: 3)"), "{text}");
    assert!(
        text.ends_with("; stderr of the program ends with \"one\\ntwo\""),
        "{text}"
    );
}
