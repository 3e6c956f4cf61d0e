//! Prints who holds a port: `cargo run --example who_holds -- 60315`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(port) = std::env::args().nth(1) else {
        eprintln!(
            "usage: who_holds PORT    (60315, 60315/udp, 127.0.0.1:60315 or [::1]:60315/tcp)"
        );
        return ExitCode::from(2);
    };
    match portlease::who_holds(&port) {
        Ok(holders) => {
            println!("{holders}");
            ExitCode::from(u8::from(holders.is_empty()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
