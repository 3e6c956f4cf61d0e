//! The crate as its users see it, one module per subject. CONTRIBUTING.md has a table of them.
#![allow(clippy::unwrap_used, reason = "a failing test names the line")]

mod environment;
mod exclusion;
mod fixed_port;
mod invalid_options;
mod language;
mod lock_folder;
mod options;
mod report;
mod reservation;
mod rooms;
mod server;
mod server_kinds;
mod several_ports;
mod stable_names;
mod tidy;
mod waiting;

#[cfg(target_os = "linux")]
mod linux;
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "only the tests of Linux use some of it")
)]
#[path = "../support/mod.rs"]
mod support;

/// Runs a helper process of the tests, if this process is one. It tests nothing.
#[test]
fn helper_process() {
    let Some((name, args)) = support::helper::requested() else {
        return;
    };
    match name.as_str() {
        "reserver" => support::reserver::run(),
        "server" => support::server::run(&args),
        #[cfg(unix)]
        "spawns-on-a-terminal" => server::unix::spawn_on_a_terminal(),
        "contender" => exclusion::contend(&args),
        "racer" => exclusion::race(&args),
        "takes-subsets" => several_ports::take_subsets(&args),
        "leaks" => report::leak::leak_listeners(),
        "panics" => report::panic::panic_in_each_call(),
        #[cfg(target_os = "linux")]
        "lists-reservations" => lock_folder::sweep::list_for_some_seconds(),
        #[cfg(target_os = "linux")]
        "reserves-beside-sweeps" => lock_folder::sweep::reserve_beside_sweeps(&args),
        #[cfg(target_os = "linux")]
        other => linux::run_helper(other, &args),
        #[cfg(not(target_os = "linux"))]
        other => panic!("no such helper: {other}"),
    }
}
