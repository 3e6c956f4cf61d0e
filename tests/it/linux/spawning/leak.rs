//! Listeners that a test leaves in a forked child.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use portlease::{Reservation, reserve_port};
use rustix::process::{Pid, Signal, kill_process};

use super::spawn_children;
use crate::support::fork;
use crate::support::helper::{self, Launch};
use crate::support::{DEADLINE, Folder, capability, eventually, need};

/// Forks a child that inherits a listener of `p` and calls exec after `delay`. This process closes
/// the listener, so afterwards only the child has it.
#[expect(
    unsafe_code,
    reason = "only pre_exec delays a child before it calls exec"
)]
fn fork_server(p: &Reservation, delay: Duration) -> std::thread::JoinHandle<()> {
    let server = p.listen().unwrap();
    let mut child = Command::new("true");
    // SAFETY: nanosleep(2) is a system call that takes no lock and allocates nothing.
    unsafe {
        child.pre_exec(move || {
            std::thread::sleep(delay);
            Ok(())
        })
    };
    // A child that is killed makes `status` fail, or return its signal.
    let starter = std::thread::spawn(move || drop(child.status()));
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
    // Under an emulator, reports show the emulator in place of each program.
    need!(capability::native());
    let folder = Folder::new();
    Launch::new("leaks-in-forked-children", &folder.locks())
        .start()
        .succeed();
}

pub(crate) fn leak_in_forked_children() {
    let p = reserve_port();
    let leaks_beside_child = |delay| {
        let (mut starter, begun) = (None, Instant::now());
        let run = || starter = Some(fork_server(&p, delay));
        let outcome = portlease::check_no_leaked_listeners(run);
        (outcome, starter.unwrap(), begun.elapsed())
    };

    let delay = Duration::from_secs(1);
    let (outcome, starter, took) = leaks_beside_child(delay);
    outcome.unwrap();
    assert!(took > delay / 2, "control: the child had called exec");
    starter.join().unwrap();

    let delay = Duration::from_secs(60);
    let (outcome, starter, took) = leaks_beside_child(delay);
    let report = outcome.unwrap_err().to_string();
    assert!(
        report.contains(&format!("port {p}/tcp was left listening")),
        "{report}"
    );
    assert!(took < delay / 2, "{took:?}");
    let holders = portlease::who_holds(&p).unwrap();
    let this = std::process::id();
    let children = holders.iter().flat_map(|holder| &holder.processes);
    for child in children.filter(|process| process.pid != this) {
        let pid = Pid::from_raw(child.pid as i32).unwrap();
        // The child shares the claim too, so it is in the list twice.
        let _gone = kill_process(pid, Signal::KILL);
    }
    starter.join().unwrap();
}

/// Python's `multiprocessing` runs servers in such forked children.
#[test]
fn a_server_in_a_forked_child_is_a_leak_and_a_copy_that_exec_closes_is_none() {
    // Under an emulator, reports show the emulator in place of each program.
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

#[test]
fn without_proc_a_new_listener_is_an_error_and_does_not_count_as_another_process() {
    need!(capability::mount_namespace());
    need!(capability::sock_diag());
    let folder = Folder::new();
    Launch::new("leaks-without-proc", &folder.locks())
        .in_mounts("mount -t tmpfs none /proc")
        .in_network("true")
        .start()
        .succeed();
}

/// The helper process.
pub(crate) fn leak_without_proc() {
    let bind = || TcpListener::bind("0.0.0.0:0").unwrap();
    // The control.
    portlease::check_no_leaked_listeners(|| drop(bind())).unwrap();
    let mut forgotten = None;
    let leaked = portlease::check_no_leaked_listeners(|| forgotten = Some(bind()));
    let text = leaked.unwrap_err().to_string();
    assert!(text.contains("/proc is missing"), "{text}");
    drop(forgotten);
}
