//! A soak test. For some minutes eight processes reserve ports of every kind, serve on them and
//! start children, of which some are slow to call exec and some never do. Meanwhile some of them
//! are killed or suspended, and the lock folder is deleted or made unwritable. Two more processes
//! list the reservations without a pause. In the last quarter a hostile second user does all the
//! harm that a user can.
//!
//! ```text
//! cargo run --release -p portlease-soak -- MINUTES
//! ```
//!
//! If `target/release/portlease` is built (`cargo build --release -p portlease-cli`), its keepers
//! take part.
//!
//! The supervisor judges the kernel's sockets and the events that the processes report: whether two
//! processes ever held one port, whether each got what `Reservation::guarantee` promised, and what
//! is left at the end. It exits with 1 on any finding.
//!
//! Run by root, it creates its own network and mount namespaces, and its processes run as an
//! unprivileged user. There it also changes the ephemeral range, and one more process reserves
//! the same numbers in two network namespaces at once. Otherwise it runs in the machine's network,
//! without these and without the second user. It signals only processes that it started.
#![allow(clippy::unwrap_used, reason = "a failing soak names the line")]

#[cfg(target_os = "linux")]
mod checker;
#[cfg(target_os = "linux")]
mod clock;
#[cfg(target_os = "linux")]
mod forks;
#[cfg(target_os = "linux")]
mod harm;
#[cfg(target_os = "linux")]
mod hostile;
#[cfg(target_os = "linux")]
mod ledger;
#[cfg(target_os = "linux")]
mod leftovers;
#[cfg(target_os = "linux")]
mod namespaces;
#[cfg(target_os = "linux")]
mod place;
#[cfg(target_os = "linux")]
mod processes;
#[cfg(target_os = "linux")]
mod ranges;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod summary;
#[cfg(target_os = "linux")]
mod supervisor;
#[cfg(target_os = "linux")]
mod sweeper;
#[cfg(target_os = "linux")]
mod usage;
#[cfg(target_os = "linux")]
mod worker;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;

    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker", number] => worker::work(number.parse().unwrap()),
        ["child", token] => server::serve_inherited(token),
        ["checker"] => checker::check(),
        ["hostile"] => hostile::harm(),
        ["namespaces"] => namespaces::work(),
        ["sweep"] => leftovers::sweep(),
        ["sweeper"] => sweeper::list_always(),
        [minutes] => match minutes.parse::<f64>() {
            Ok(minutes) if minutes > 0.0 && minutes <= 24.0 * 60.0 => {
                return place::inside(minutes, || supervisor::run(minutes));
            }
            _ => {
                eprintln!("usage: portlease-soak MINUTES, at most 1440");
                return ExitCode::from(2);
            }
        },
        _ => {
            eprintln!("usage: portlease-soak MINUTES");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("portlease-soak runs on Linux only");
    std::process::exit(2);
}
