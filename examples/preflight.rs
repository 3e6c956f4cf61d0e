//! Checks, before a suite starts, that its ports are free:
//! `cargo run --example preflight -- 5432 6379 60315/udp`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let ports: Vec<String> = std::env::args().skip(1).collect();
    if ports.is_empty() {
        eprintln!("usage: preflight PORT...");
        return ExitCode::from(2);
    }
    match portlease::check_ports_free(&ports) {
        Ok(()) => ExitCode::SUCCESS,
        Err(diagnosis) => {
            eprintln!("{diagnosis}");
            ExitCode::FAILURE
        }
    }
}
