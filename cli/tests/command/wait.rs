//! `portlease wait`.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use portlease::reserve_port;
use rustix::process::Signal;
use serde_json::json;

use crate::program::{Running, portlease, ran, silent};
use crate::support::{DEADLINE, Folder, capability, eventually, need};

#[test]
fn a_server_is_waited_for() {
    let p = reserve_port();
    let folder = Folder::new();
    let mut command = portlease(&["wait", "--listening", "--timeout", "10m", &p.to_string()]);
    let (waiting, line) = Running::that_says(&mut command, &folder.path().join("log"));
    assert_eq!(
        line,
        format!("portlease: waiting up to 10m for {p}/tcp to be listening")
    );
    let server = TcpListener::bind(p.addr()).unwrap();
    let said = waiting.finish().code(0);
    assert_eq!(said.out, "");
    // Nothing to wait for is nothing to say.
    let said = ran(&["wait", "--listening", &p.to_string()]).code(0);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "it connected");
}

#[test]
fn a_wait_in_vain_is_1_and_says_why() {
    let (free, busy) = (silent(), reserve_port());
    let _server = busy.listen().unwrap();
    let said = ran(&[
        "wait",
        "--free",
        "--timeout",
        "30ms",
        &free.to_string(),
        &busy.to_string(),
    ])
    .code(1);
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with(&format!("port {busy}/tcp is in use: ")),
        "{said:#?}"
    );
    assert!(lines[1].starts_with("help: stop pid "), "{said:#?}");
    assert!(
        said.err.starts_with("portlease: waiting up to 30ms for "),
        "{said:#?}"
    );
    assert!(
        said.err.lines().count() == 2 && said.err.contains("\nportlease: timed out after "),
        "{said:#?}"
    );
    let said = ran(&[
        "wait",
        "--free",
        "--timeout",
        "1ms",
        "--json",
        "-q",
        &busy.to_string(),
    ])
    .code(1);
    let expected = json!({"version": 1, "ports": [format!("{busy}/tcp")], "outcome": "timed_out"});
    assert_eq!((said.json(), said.err.as_str()), (expected, ""));
    ran(&["wait", "--free", &free.to_string()]).code(0);
    ran(&["wait", "--listening", "--timeout", "0s", &free.to_string()]).code(1);
}

#[test]
fn the_end_of_the_process_is_the_end_of_the_wait() {
    let p = reserve_port();
    let mut server = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let pid = server.id().to_string();
    let args = [
        "wait",
        "--listening",
        "--timeout",
        "10m",
        "--pid",
        &pid,
        &p.to_string(),
    ];
    let folder = Folder::new();
    let log = folder.path().join("log");
    let (mut waiting, _) = Running::that_says(&mut portlease(&args), &log);
    assert!(waiting.runs());
    server.kill().unwrap();
    // Not waited for yet by its parent: it has ended all the same.
    waiting.finish().code(2);
    let said = std::fs::read_to_string(log).unwrap();
    assert!(
        said.contains(&format!("portlease: pid {pid} ended first, after ")),
        "{said}"
    );
    server.wait().unwrap();
    let said = ran(&[&["--json"], &args[..]].concat()).code(2);
    assert_eq!(said.json()["outcome"], json!("ended"));
}

#[test]
fn a_process_whose_end_frees_the_port_ended_in_time() {
    let p = reserve_port();
    let server = p.listen().unwrap();
    let mut process = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let pid = process.id().to_string();
    let folder = Folder::new();
    let mut command = portlease(&[
        "wait",
        "--free",
        "--timeout",
        "10m",
        "--pid",
        &pid,
        &p.to_string(),
    ]);
    let (waiting, _) = Running::that_says(&mut command, &folder.path().join("log"));
    drop(server);
    process.kill().unwrap();
    process.wait().unwrap();
    waiting.finish().code(0);
}

#[test]
fn an_interrupt_is_130() {
    need!(capability::native());
    let p = reserve_port();
    let args = ["wait", "--listening", "--timeout", "10m", &p.to_string()];
    let waiting = Running::start(&mut portlease(&args));
    // Once it handles the signal: until then it ends by it.
    eventually("the signal is handled", DEADLINE, || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", waiting.pid())).unwrap();
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))
            .unwrap()
            .trim()
            .to_owned();
        match u64::from_str_radix(&caught, 16).unwrap() & 2 {
            0 => Err(caught),
            _ => Ok(()),
        }
    });
    waiting.signal(Signal::INT);
    let said = waiting.finish().code(130);
    assert_eq!(said.out, "");
}
