//! A soak: eight processes reserve ports of every kind for some minutes, serve on them and start children, while some
//! of them are killed and stopped and the lock folder is deleted and made unwritable under them; for the last quarter a
//! second user does all the harm that a user can.
//!
//!     cargo run --release --example soak -- MINUTES
//!
//! Where `target/release/portlease` is built (`cargo build --release -p portlease-cli`), its keepers take part.
//!
//! From outside it is judged, by the kernel's sockets and by what the processes said, whether ever two held one number,
//! whether each got what `Reservation::guarantee` promised, and what is left when all is over. Exit 1 on any finding.
//!
//! As root it runs in a network and a mount namespace of its own, its processes as an unprivileged user; else as it is,
//! without the second user. It signals no process but those it started.
#![allow(clippy::unwrap_used, reason = "a soak fails by it, and says where")]

#[cfg(target_os = "linux")]
mod checker;
#[cfg(target_os = "linux")]
mod clock;
#[cfg(target_os = "linux")]
mod crew;
#[cfg(target_os = "linux")]
mod hostile;
#[cfg(target_os = "linux")]
mod ledger;
#[cfg(target_os = "linux")]
mod place;
#[cfg(target_os = "linux")]
mod remains;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod supervisor;
#[cfg(target_os = "linux")]
mod worker;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;

    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker", number] => worker::work(number.parse().unwrap()),
        ["child", token] => server::serve_inherited(token),
        ["checker"] => checker::look(),
        ["hostile"] => hostile::harm(),
        ["sweep"] => remains::sweep(),
        [minutes] => match minutes.parse::<f64>() {
            Ok(minutes) if minutes > 0.0 && minutes <= 24.0 * 60.0 => {
                return place::inside(minutes, || supervisor::run(minutes));
            }
            _ => {
                eprintln!("usage: soak MINUTES, at most a day of them");
                return ExitCode::from(2);
            }
        },
        _ => {
            eprintln!("usage: soak MINUTES");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the soak is Linux's");
}
