//! Leaked listeners of children that never call exec, and copies that an exec closes.

use std::net::TcpListener;
use std::sync::atomic::AtomicBool;

use portlease::reserve_port;

use super::spawn_children;
use crate::support::fork;
use crate::support::helper::{self, Launch};
use crate::support::{DEADLINE, Folder, capability, need};

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
