//! Runs tests that all need port 60315 one after another, in any number of processes:
//! `cargo run --example fixed_port`.
//!
//! The program starts itself four times, each time as one test.

use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};

use portlease::ReserveOptions;

const PORT: u16 = 60315;

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(name) = std::env::args().nth(1) {
        return test(&name);
    }
    let start = |n: u32| {
        Command::new(std::env::current_exe()?)
            .arg(format!("test-{n}"))
            .spawn()
    };
    let tests: Vec<_> = (1..=4).map(start).collect::<Result<_, _>>()?;
    for mut test in tests {
        if !test.wait()?.success() {
            return Err("a test failed".into());
        }
    }
    Ok(())
}

fn test(name: &str) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let p = ReserveOptions::new()
        .port(PORT)
        .label(name)
        .wait(Duration::from_secs(60))
        .reserve()?;
    println!("{name} got {p} after {:?}", started.elapsed());
    let server = p.listen()?;
    std::thread::sleep(Duration::from_millis(20)); // the work of the test
    drop(server);
    Ok(())
}
