//! The command from outside: the built binary, its exit codes and JSON shapes, servers and shells.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod check;
mod keepers;
mod layout;
mod list;
mod manual;
mod numbers;
mod program;
mod reports;
#[allow(
    dead_code,
    reason = "this test binary uses only a part of the shared helpers"
)]
#[path = "../../../tests/support/mod.rs"]
mod support;
mod usage;
mod wait;
mod who;
#[cfg(windows)]
mod windows;

// Each of these modules needs something of Linux. `windows` has the counterparts for Windows.
/// Shells that fork and exec, and /proc.
#[cfg(target_os = "linux")]
mod callers;
/// A network namespace.
#[cfg(target_os = "linux")]
mod ephemeral_range;
/// Servers in Python.
#[cfg(target_os = "linux")]
mod http;
/// Signals, descriptors, abstract sockets, users.
#[cfg(target_os = "linux")]
mod keeper;
/// Daemons, whose orphans only Linux lets a process adopt.
#[cfg(target_os = "linux")]
mod leaks;
/// The examples of the pages, in sh.
#[cfg(target_os = "linux")]
mod pages;
/// Inherited sockets.
#[cfg(target_os = "linux")]
mod passing;
/// Unix sockets.
#[cfg(target_os = "linux")]
mod port_server;
/// /proc.
#[cfg(target_os = "linux")]
mod release;
/// Shell scripts.
#[cfg(target_os = "linux")]
mod reserve;
/// Shell scripts.
#[cfg(target_os = "linux")]
mod run;
/// Unix sockets.
#[cfg(target_os = "linux")]
mod serve;
/// Servers that Debian packages.
#[cfg(target_os = "linux")]
mod servers;
/// Signals.
#[cfg(target_os = "linux")]
mod signals;
/// Signals, containers and supervisors.
#[cfg(target_os = "linux")]
mod stop;
/// A pseudo-terminal.
#[cfg(target_os = "linux")]
mod terminal;
/// A lock folder that cannot be used, and network namespaces.
#[cfg(target_os = "linux")]
mod unrecorded;
/// A kernel without pidfd, which strace simulates.
#[cfg(target_os = "linux")]
mod without_pidfd;
/// Namespaces.
#[cfg(target_os = "linux")]
mod without_proc;

/// Runs a helper process of the tests, if this process is one. It tests nothing.
#[test]
fn helper_process() {
    let Some((name, args)) = support::helper::requested() else {
        return;
    };
    match name.as_str() {
        "server" => support::server::run(&args),
        #[cfg(windows)]
        "owned-server" => windows::serve(&args),
        other => panic!("no such helper: {other}"),
    }
}
