//! Measures what a reservation costs and what its alternatives cost, side by side in one run.
//!
//! ```text
//! cargo bench --bench reserve
//! ```
//!
//! A ratio is valid only if both sides were measured at the same time and under the same load. So
//! the rivals take turns, with a few operations in each turn. No benchmark framework supports such
//! turns. As root on Linux everything runs in a network namespace of its own: only there can the
//! bench fill the ephemeral range.
//!
//! `first use`: the lock folder is empty, so each lock file has to be created. `warm`: all lock
//! files exist.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portlease::{Reservation, ReserveOptions, reserve_port};

#[path = "support/crowd.rs"]
mod crowd;
#[allow(dead_code, reason = "each bench uses only a part of this module")]
#[path = "support/helper.rs"]
mod helper;

use helper::{Helper, Outcome, print_ready_and_wait};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rival {
    BindAndDrop,
    Claim,
    ClaimAndLock,
    Portpicker,
    Portlease,
}

const RIVALS: [Rival; 5] = [
    Rival::BindAndDrop,
    Rival::Claim,
    Rival::ClaimAndLock,
    Rival::Portpicker,
    Rival::Portlease,
];

impl Rival {
    fn name(self) -> &'static str {
        match self {
            Rival::BindAndDrop => "bind(0) and drop",
            Rival::Claim => "claim, by hand",
            Rival::ClaimAndLock => "claim and lock file, by hand",
            Rival::Portpicker => "portpicker",
            Rival::Portlease => "reserve_port() and drop",
        }
    }

    fn once(self) -> Outcome<()> {
        match self {
            Rival::BindAndDrop => drop(TcpListener::bind("127.0.0.1:0")?.local_addr()?),
            Rival::Claim => drop(crowd::claim(0)?),
            Rival::ClaimAndLock => {
                let (_claim, port) = crowd::claim(0)?;
                let path = scratch().join(port.to_string());
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)?;
                file.try_lock()?;
                file.unlock()?;
            }
            Rival::Portpicker => {
                portpicker::pick_unused_port().ok_or("portpicker found no port")?;
            }
            Rival::Portlease => drop(reserve_port()),
        }
        Ok(())
    }
}

/// The folder for the lock files of [`Rival::ClaimAndLock`]. It is a sibling of the lock folder, so
/// both are on the same file system.
fn scratch() -> PathBuf {
    PathBuf::from(std::env::var_os("PORTLEASE_DIR").unwrap_or_default()).with_extension("by-hand")
}

#[derive(Default)]
struct Samples(Vec<Duration>);

impl Samples {
    fn time(&mut self, act: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        let before = Instant::now();
        act()?;
        self.0.push(before.elapsed());
        Ok(())
    }

    fn of(rival: Rival, turns: usize) -> Outcome<Samples> {
        let mut samples = Samples::default();
        for _ in 0..turns {
            samples.time(|| rival.once())?;
        }
        Ok(samples)
    }

    fn summary(&mut self) -> Summary {
        self.0.sort();
        let us = |d: &Duration| d.as_secs_f64() * 1e6;
        let at = |q: f64| {
            self.0
                .get((self.0.len() as f64 * q) as usize)
                .map_or(f64::NAN, us)
        };
        let mean = self.0.iter().map(us).sum::<f64>() / self.0.len() as f64;
        Summary {
            median: at(0.5),
            p90: at(0.9),
            mean,
        }
    }
}

/// In microseconds.
#[derive(Clone, Copy)]
struct Summary {
    median: f64,
    p90: f64,
    mean: f64,
}

/// Few enough that all rivals are measured under the same load.
const TURNS: usize = 20;

/// Lets the rivals take turns, and prints a line for each.
fn side_by_side(rounds: usize) -> Outcome<()> {
    let mut samples = RIVALS.map(|_| Samples::default());
    for round in 0..rounds {
        for turn in 0..RIVALS.len() {
            let i = (round + turn) % RIVALS.len();
            samples[i].0.append(&mut Samples::of(RIVALS[i], TURNS)?.0);
        }
    }
    for (rival, samples) in RIVALS.iter().zip(&mut samples) {
        print_line(rival.name(), samples.summary(), "");
    }
    Ok(())
}

fn print_line(name: &str, summary: Summary, note: &str) {
    println!(
        "{name}\t{}\t{}\t{}\t{note}",
        summary.median, summary.p90, summary.mean
    );
}

/// One of several parallel processes. It prints every sample in nanoseconds.
fn worker(rival: Rival, time: Duration) -> Outcome<()> {
    rival.once()?;
    print_ready_and_wait()?;
    let (started, mut samples) = (Instant::now(), Samples::default());
    while started.elapsed() < time {
        samples.time(|| rival.once())?;
    }
    let nanos: Vec<String> = samples.0.iter().map(|d| d.as_nanos().to_string()).collect();
    println!("{}", nanos.join(" "));
    Ok(())
}

/// The rivals take turns here too, in slices of 200 ms.
fn in_parallel(processes: usize) -> Outcome<()> {
    const SLICES: usize = 3;
    const SLICE: Duration = Duration::from_millis(200);
    let mut samples = RIVALS.map(|_| Samples::default());
    for _ in 0..SLICES {
        for (i, _) in RIVALS.iter().enumerate() {
            let worker = |_| {
                Helper::start(&["worker", &i.to_string(), &SLICE.as_millis().to_string()])?
                    .when_ready()
            };
            let mut workers = (0..processes).map(worker).collect::<Outcome<Vec<_>>>()?;
            for worker in &mut workers {
                worker.send("go")?;
            }
            for worker in &mut workers {
                let nanos = worker.line()?;
                let nanos = nanos
                    .split_whitespace()
                    .map(|n| n.parse().map(Duration::from_nanos));
                samples[i].0.append(&mut nanos.collect::<Result<_, _>>()?);
            }
        }
    }
    for (rival, samples) in RIVALS.iter().zip(&mut samples) {
        let rate = samples.0.len() as f64 / (SLICE * SLICES as u32).as_secs_f64();
        print_line(rival.name(), samples.summary(), &format!("{rate:.0}/s"));
    }
    Ok(())
}

/// Reserves up to `wanted` ports in this process, as many as the descriptor limit allows.
fn reserve_many(wanted: usize) -> Outcome<Vec<Reservation>> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let needed = 2 * wanted as u64 + 100;
        // If this is refused, the bench reserves as many as the old limit allows.
        let _refused = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit
                    .maximum
                    .map_or(Some(needed), |most| Some(needed.min(most))),
                maximum: limit.maximum,
            },
        );
    }
    let mut live = Vec::new();
    while live.len() < wanted {
        match portlease::try_reserve_port() {
            Ok(reservation) => live.push(reservation),
            // The rivals need some descriptors.
            Err(_) => {
                live.truncate(live.len().saturating_sub(20));
                break;
            }
        }
    }
    Ok(live)
}

/// Reads port numbers from stdin and prints, for each, whether its record is complete.
fn reader() -> Outcome<()> {
    println!("ready");
    let root = PathBuf::from(std::env::var_os("PORTLEASE_DIR").ok_or("no PORTLEASE_DIR")?);
    for line in std::io::stdin().lines() {
        let file = format!("{}.tcp", line?);
        let mut paths = std::fs::read_dir(&root)?
            .flatten()
            .map(|scope| scope.path().join(&file));
        let path = paths.find(|path| path.exists()).ok_or("no lock file")?;
        let mut record = String::new();
        File::open(path)?.read_to_string(&mut record)?;
        println!("{}", record.contains("\npid ") && record.contains("\nend "));
    }
    Ok(())
}

/// Times reserving and releasing, without the reads between them. The reader process gets `TURNS`
/// ports at once, because waking this process costs as much as an operation of any rival.
fn with_reader(rounds: usize) -> Outcome<()> {
    let mut reader = Helper::start(&["reader"])?.when_ready()?;
    let (mut ours, mut theirs, mut read) = (Samples::default(), Samples::default(), 0);
    for _ in 0..rounds {
        theirs
            .0
            .append(&mut Samples::of(Rival::Portpicker, TURNS)?.0);
        let mut live = Vec::with_capacity(TURNS);
        for _ in 0..TURNS {
            let before = Instant::now();
            let reservation = reserve_port();
            live.push((before.elapsed(), reservation));
        }
        for (_, reservation) in &live {
            reader.send(reservation)?;
        }
        for _ in 0..TURNS {
            read += usize::from(reader.line()? == "true");
        }
        for (took, reservation) in live {
            let before = Instant::now();
            drop(reservation);
            ours.0.push(took + before.elapsed());
        }
    }
    print_line(Rival::Portpicker.name(), theirs.summary(), "");
    print_line(
        Rival::Portlease.name(),
        ours.summary(),
        &format!("{read} of {} read", rounds * TURNS),
    );
    Ok(())
}

/// Creates every lock file that an automatic pick may need.
fn warm_up() -> Outcome<()> {
    let numbers = crowd::ports_in_fill_order()?;
    for port in numbers {
        // A port that is in use is never picked, so it needs no lock file.
        let _maybe_in_use = ReserveOptions::new().port(port).reserve();
        std::fs::write(scratch().join(port.to_string()), "")?;
    }
    Ok(())
}

/// Measures one table. Each table has a process of its own, because a process uses only one lock
/// folder.
fn part(what: &str, rounds: usize) -> Outcome<()> {
    std::fs::create_dir_all(scratch())?;
    match what.split_once(' ').unwrap_or((what, "")) {
        ("alone", _) => side_by_side(rounds),
        ("processes", n) => in_parallel(n.parse()?),
        ("crowd", percent) => {
            let _crowd = crowd::claim_percent(percent.parse()?)?;
            side_by_side(rounds)
        }
        ("live", n) => {
            let live = reserve_many(n.parse()?)?;
            eprintln!("({} live reservations)", live.len());
            side_by_side(rounds)
        }
        ("read", _) => with_reader(rounds),
        _ => Err(format!("no such part: {what}").into()),
    }
}

const PARTS: [(&str, &str); 8] = [
    ("alone", "one thread"),
    ("read", "each record read by another process"),
    ("live 10000", "10,000 live reservations"),
    ("processes 16", "16 processes at once"),
    ("crowd 25", "25 % of the range claimed"),
    ("crowd 50", "50 % of the range claimed"),
    ("crowd 75", "75 % of the range claimed"),
    ("crowd 90", "90 % of the range claimed"),
];

fn tables(only: Option<&str>) -> Outcome<()> {
    println!(
        "{:<30}{:>10}{:>10}{:>10}{:>14}{:>12}",
        "", "median us", "p90 us", "mean us", "/ portpicker", "/ alone"
    );
    for warm in [true, false] {
        let (folder, rounds) = if warm {
            ("warm", "200")
        } else {
            ("first use", "100")
        };
        let mut alone = f64::NAN;
        for (part, title) in PARTS
            .iter()
            .filter(|(part, _)| only.is_none_or(|only| *part == only))
        {
            let scratch = tempfile::tempdir()?;
            let mut command = Command::new(std::env::current_exe()?);
            command
                .args(["part", part, rounds, folder])
                .env("PORTLEASE_DIR", scratch.path().join("portlease"));
            let output = command.stderr(Stdio::inherit()).output()?;
            if !output.status.success() {
                return Err(format!("{part}: {}", output.status).into());
            }
            println!("\n{title}, {folder}");
            let lines = String::from_utf8(output.stdout)?;
            let rows: Vec<Vec<&str>> = lines
                .lines()
                .map(|line| line.split('\t').collect())
                .collect();
            let median = |rival: Rival| -> Option<f64> {
                rows.iter()
                    .find(|row| row[0] == rival.name())
                    .and_then(|row| row[1].parse().ok())
            };
            if *part == "alone" {
                alone = median(Rival::Portlease).unwrap_or(f64::NAN);
            }
            let picker = median(Rival::Portpicker).unwrap_or(f64::NAN);
            for row in &rows {
                let [median, p90, mean] =
                    [1, 2, 3].map(|i| row[i].parse::<f64>().unwrap_or(f64::NAN));
                let to_alone = match row[0] == Rival::Portlease.name() {
                    true => format!("{:.2}", median / alone),
                    false => String::new(),
                };
                let to_picker = median / picker;
                println!(
                    "  {:<28}{median:>10.1}{p90:>10.1}{mean:>10.1}{to_picker:>14.2}\
                     {to_alone:>12}  {}",
                    row[0], row[4]
                );
            }
        }
    }
    Ok(())
}

/// Prints the tables from a new network namespace, if the system allows one.
fn isolate_and_run() -> Outcome<()> {
    let exe = std::env::current_exe()?;
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let unshare_args = [
        "--net",
        "sh",
        "-c",
        "ip link set lo up 2>/dev/null; exec \"$0\" \"$@\"",
    ];
    let isolated = Command::new("unshare")
        .args(unshare_args)
        .arg("true")
        .status()
        .is_ok_and(|status| status.success());
    if !isolated {
        println!(
            "(a network namespace needs root on Linux; using the machine's own ports, which other \
             programs use too)"
        );
        return tables(only.first().map(String::as_str));
    }
    let status = Command::new("unshare")
        .args(unshare_args)
        .arg(exe)
        .arg("tables")
        .args(only)
        .status()?;
    status
        .success()
        .then_some(())
        .ok_or_else(|| status.to_string().into())
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tables"] => tables(None),
        ["tables", only] => tables(Some(only)),
        ["part", what, rounds, folder] => {
            if folder == "warm" {
                std::fs::create_dir_all(scratch())?;
                warm_up()?;
            }
            part(what, rounds.parse()?)
        }
        ["worker", rival, millis] => worker(
            RIVALS[rival.parse::<usize>()?],
            Duration::from_millis(millis.parse()?),
        ),
        ["hold", from, to] => crowd::claim_and_hold(from.parse()?, to.parse()?),
        ["reader"] => reader(),
        // Only `cargo bench` passes this; `cargo test --benches` has nothing to measure.
        ref args if args.contains(&"--bench") => isolate_and_run(),
        _ => Ok(()),
    }
}
