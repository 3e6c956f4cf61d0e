//! Measures what the first reservation of a process costs, and what its alternatives cost.
//!
//! ```text
//! cargo bench --bench first
//! ```
//!
//! Test runners such as nextest start a process for each test, so most reservations are the first
//! of their process. Each measurement is a process of its own. The rivals take turns, so that all
//! of them meet the same load.
//!
//! `beside fsync`: another process writes to the disk of the temporary folder, and calls fsync(2)
//! without pause. `cold`: before each process starts, the kernel drops its caches of files. This
//! needs root on Linux.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[allow(dead_code, reason = "each bench uses only a part of this module")]
#[path = "support/helper.rs"]
mod helper;

use helper::{Helper, Outcome, print_ready_and_wait};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rival {
    BindAndDrop,
    Portpicker,
    Portlease,
    PortleaseOnDisk,
}

const RIVALS: [Rival; 4] = [
    Rival::BindAndDrop,
    Rival::Portpicker,
    Rival::Portlease,
    Rival::PortleaseOnDisk,
];

impl Rival {
    fn name(self) -> &'static str {
        match self {
            Rival::BindAndDrop => "bind(0) and drop",
            Rival::Portpicker => "portpicker",
            Rival::Portlease => "reserve_port()",
            Rival::PortleaseOnDisk => "reserve_port(), folder on disk",
        }
    }

    /// Makes the first call in this process, and returns its time. Use this once per process.
    fn first(self) -> Outcome<Duration> {
        let before = Instant::now();
        match self {
            Rival::BindAndDrop => drop(TcpListener::bind("127.0.0.1:0")?.local_addr()?),
            Rival::Portpicker => {
                portpicker::pick_unused_port().ok_or("portpicker found no port")?;
            }
            Rival::Portlease | Rival::PortleaseOnDisk => {
                let reservation = portlease::reserve_port();
                let elapsed = before.elapsed();
                drop(reservation);
                return Ok(elapsed);
            }
        }
        Ok(before.elapsed())
    }

    /// Starts a process that prints the time of its first call in nanoseconds.
    fn in_new_process(self, index: usize, disk: &Path) -> Outcome<Duration> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["first", &index.to_string()]);
        command.stderr(Stdio::inherit()).env_remove("PORTLEASE_DIR");
        if self == Rival::PortleaseOnDisk {
            command.env("PORTLEASE_DIR", disk);
        }
        let output = command.output()?;
        if !output.status.success() {
            return Err(format!("{}: {}", self.name(), output.status).into());
        }
        let nanos = String::from_utf8(output.stdout)?.trim().parse()?;
        Ok(Duration::from_nanos(nanos))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Quiet,
    BesideFsync,
    Cold,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Load::Quiet => "quiet",
            Load::BesideFsync => "beside fsync",
            Load::Cold => "cold",
        }
    }

    fn rounds(self) -> usize {
        match self {
            Load::Quiet => 500,
            Load::BesideFsync => 300,
            Load::Cold => 30,
        }
    }

    fn prepare(self) -> Outcome<()> {
        if self == Load::Cold {
            std::fs::write("/proc/sys/vm/drop_caches", "1")?;
        }
        Ok(())
    }
}

/// Writes and calls fsync until the parent kills this process.
fn call_fsync(file: &str) -> Outcome<()> {
    let mut file = File::create(file)?;
    print_ready_and_wait()?;
    loop {
        file.write_all(&[0; 4096])?;
        file.sync_all()?;
    }
}

fn table(load: Load, folder: &Path) -> Outcome<()> {
    let fsync = folder.join("fsync");
    let mut neighbour = None;
    if load == Load::BesideFsync {
        let path = fsync
            .to_str()
            .ok_or("a temporary folder whose name is not UTF-8")?;
        let mut helper = Helper::start(&["fsync", path])?.when_ready()?;
        helper.send("go")?;
        neighbour = Some(helper);
    }
    let mut samples: [Vec<Duration>; RIVALS.len()] = Default::default();
    for round in 0..load.rounds() {
        for turn in 0..RIVALS.len() {
            let i = (round + turn) % RIVALS.len();
            load.prepare()?;
            samples[i].push(RIVALS[i].in_new_process(i, &folder.join("portlease"))?);
        }
    }
    drop(neighbour);
    for samples in &mut samples {
        samples.sort();
    }
    let at = |samples: &[Duration], q: f64| {
        samples[(samples.len() as f64 * q) as usize].as_secs_f64() * 1e6
    };
    let picker = RIVALS.iter().position(|rival| *rival == Rival::Portpicker);
    let picker = &samples[picker.ok_or("no portpicker")?];
    let (median_of_picker, last_of_picker) = (at(picker, 0.5), at(picker, 0.99));
    println!("\n{}, {} processes each", load.name(), load.rounds());
    for (rival, samples) in RIVALS.iter().zip(&samples) {
        let (median, p90, p99) = (at(samples, 0.5), at(samples, 0.9), at(samples, 0.99));
        println!(
            "  {:<32}{median:>10.1}{p90:>10.1}{p99:>10.1}{:>14.2}{:>14.2}",
            rival.name(),
            median / median_of_picker,
            p99 / last_of_picker
        );
    }
    Ok(())
}

fn tables() -> Outcome<()> {
    println!(
        "{:<34}{:>10}{:>10}{:>10}{:>14}{:>14}",
        "", "median us", "p90 us", "p99 us", "median /", "p99 /"
    );
    println!("{:<64}{:>14}{:>14}", "", "portpicker", "portpicker");
    let folder = tempfile::tempdir()?;
    table(Load::Quiet, folder.path())?;
    table(Load::BesideFsync, folder.path())?;
    match Load::Cold.prepare() {
        Ok(()) => table(Load::Cold, folder.path())?,
        Err(e) => println!("\ncold: skipped, because the kernel does not drop its caches: {e}"),
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["first", rival] => {
            let rival = RIVALS[rival.parse::<usize>()?];
            println!("{}", rival.first()?.as_nanos());
            Ok(())
        }
        ["fsync", file] => call_fsync(file),
        // Only `cargo bench` passes this; `cargo test --benches` has nothing to measure.
        ref args if args.contains(&"--bench") => tables(),
        _ => Ok(()),
    }
}
