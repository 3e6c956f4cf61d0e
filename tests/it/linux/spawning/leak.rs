//! Listeners that a test leaves in a forked child.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use portlease::{Reservation, reserve_port};

use super::spawn_children;
use crate::support::fork;
use crate::support::helper::{self, Launch};
use crate::support::{DEADLINE, Folder, capability, eventually, need};

/// Forks a child that has the listener of `p` alone, and calls exec once `until` is closed.
#[expect(
    unsafe_code,
    reason = "only pre_exec delays a child before it calls exec"
)]
fn fork_server(p: &Reservation, mut until: std::io::PipeReader) -> std::thread::JoinHandle<()> {
    let server = p.listen().unwrap();
    let mut child = Command::new("true");
    // SAFETY: read(2) is a system call that takes no lock and allocates nothing.
    unsafe { child.pre_exec(move || std::io::Read::read(&mut until, &mut [0]).map(drop)) };
    let starter = std::thread::spawn(move || assert!(child.status().unwrap().success()));
    eventually("a child shares the listener", DEADLINE, || {
        let holders = portlease::who_holds(p).unwrap();
        let shared = holders.iter().any(|holder| holder.processes.len() > 1);
        if shared {
            Ok(())
        } else {
            Err(holders.to_string())
        }
    });
    drop(server);
    starter
}

/// In a process of its own, because the check looks at every listener of the process.
#[test]
fn a_listener_in_a_forked_child_is_leaked_unless_the_child_calls_exec() {
    let folder = Folder::new();
    Launch::new("leaks-in-forked-children", &folder.locks())
        .start()
        .succeed();
}

pub(crate) fn leak_in_forked_children() {
    // The child calls exec while the check looks.
    let p = reserve_port();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut starter = None;
    let begun = Instant::now();
    let outcome = portlease::check_no_leaked_listeners(|| {
        starter = Some(fork_server(&p, reader));
        // The child inherits the writer too, so its end does not close the pipe.
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            writer.write_all(b"x").unwrap();
        });
    });
    outcome.unwrap();
    assert!(begun.elapsed() > Duration::from_millis(250), "control");
    starter.unwrap().join().unwrap();

    // The child never does.
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut starter = None;
    let begun = Instant::now();
    let outcome = portlease::check_no_leaked_listeners(|| {
        starter = Some(fork_server(&p, reader));
    });
    let report = outcome.unwrap_err().to_string();
    assert!(
        report.contains(&format!("port {p}/tcp was left listening")),
        "{report}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    writer.write_all(b"x").unwrap();
    starter.unwrap().join().unwrap();
}

/// Servers of `multiprocessing` in Python are such children.
#[test]
fn a_server_in_a_forked_child_is_a_leak_and_a_copy_that_exec_closes_is_none() {
    // An emulator shows itself as the process of every program.
    need!(capability::native());
    let folder = Folder::new();
    let replies = Launch::new("leaks-in-children", &folder.locks())
        .start()
        .succeed();
    let [port, child, report, beside_spawns] = replies.as_slice() else {
        panic!("{replies:?}");
    };
    assert!(
        report.contains(&format!("port {port}/tcp was left listening"))
            && report.contains(&format!("(pid {child}) listens on")),
        "{report}"
    );
    assert_eq!(beside_spawns, "100 rounds, no leak");
}

/// The helper process.
pub(crate) fn leak_in_children() {
    let p = reserve_port();
    let mut server = None;
    let leaked = portlease::check_no_leaked_listeners(|| {
        server = fork::in_two();
        if server.is_none() {
            let _listener = p.listen().unwrap();
            fork::idle();
        }
        p.wait_until_listening(DEADLINE).unwrap();
    });
    helper::reply(&p.to_string());
    helper::reply(&server.as_ref().unwrap().pid().to_string());
    helper::reply(&leaked.unwrap_err().to_string().replace('\n', " "));
    drop(server);

    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _spawning = spawn_children(scope, &stopped);
        for _ in 0..100 {
            portlease::check_no_leaked_listeners(|| drop(TcpListener::bind("127.0.0.1:0")))
                .unwrap();
        }
    });
    helper::reply("100 rounds, no leak");
}
