//! A child of tokio that listens, or ends first.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::time::Instant;

use portlease::tokio::{wait_for, wait_until_free};
use portlease::{ErrorKind, reserve_port};
use tokio::process::{Child, Command};

use crate::support::args::Args;
use crate::support::helper::{self, ARGS, LIBTEST_ARGS, NAME};
use crate::support::{DEADLINE, eventually, show_owner};

/// The helper process: a server that runs until its input is closed. With `stay` it runs until it
/// is killed, and with `exit=CODE` it exits at once.
pub(crate) fn serve(args: &Args) {
    if let Some(code) = args.number("exit") {
        std::process::exit(code);
    }
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, args.number("port").unwrap())).unwrap();
    show_owner(&server);
    while helper::next_line().is_some() {}
    while args.get("stay").is_some() {
        std::thread::park();
    }
}

fn start(args: String) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(LIBTEST_ARGS)
        .env(NAME, "server")
        .env(ARGS, args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command.spawn().unwrap()
}

#[tokio::test]
async fn a_child_that_serves_is_waited_for_and_keeps_its_input() {
    let p = reserve_port();
    for _ in 0..2 {
        let mut child = start(format!("port={p}"));
        wait_for(&p, &mut child, DEADLINE).await.unwrap();
        // Wine may not show the process of a listener yet.
        let pid = child.id().unwrap();
        eventually("the child holds its port", DEADLINE, || {
            portlease::check_port_held_by(&p, pid).map_err(|e| e.to_string())
        });
        // The child ends only when its input is closed.
        assert!(child.try_wait().unwrap().is_none());
        drop(child.stdin.take().unwrap());
        assert!(child.wait().await.unwrap().success());
        wait_until_free(&p, DEADLINE).await.unwrap();
    }
}

#[tokio::test]
async fn a_child_that_ends_first_ends_the_wait_at_once() {
    let p = reserve_port();
    let mut child = start("exit=3".to_owned());
    let (pid, begun) = (child.id().unwrap(), Instant::now());
    let error = wait_for(&p, &mut child, DEADLINE).await.unwrap_err();
    assert!(begun.elapsed() < DEADLINE / 2);
    assert_eq!(error.kind(), ErrorKind::Io);
    let text = error.to_string();
    let start = format!("process {pid} ended (");
    assert!(
        text.starts_with(&start) && text.contains("3) before it listened on port "),
        "{text}"
    );
    // tokio has reaped the child and no longer knows its pid.
    let again = wait_for(&p, &mut child, DEADLINE).await.unwrap_err();
    assert!(
        again.to_string().starts_with("the process ended ("),
        "{again}"
    );
}
