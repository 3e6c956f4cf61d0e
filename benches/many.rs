//! Measures what a query about one port costs while 10,000 other ports are in use, and what a query
//! about 10,000 ports costs.
//!
//! ```text
//! cargo bench --bench many
//! ```
//!
//! The rivals take turns, so that all of them meet the same load. As root on Linux everything runs
//! in a network namespace of its own. `ss` and `lsof` run as new processes. To compare with them,
//! `whole process` starts this program again.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[allow(dead_code, reason = "each bench uses only a part of this module")]
#[path = "support/crowd.rs"]
mod crowd;
#[allow(dead_code, reason = "each bench uses only a part of this module")]
#[path = "support/helper.rs"]
mod helper;

use helper::{Helper, Outcome, print_ready_and_wait};

const PORTS: usize = 10_000;

/// These ports are outside the default ephemeral range, so all of them are free in a new namespace.
const FREE: std::ops::Range<u16> = 20_000..30_000;

/// Below the usual limit on descriptors of a process.
const SOCKETS_PER_PROCESS: usize = 800;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Claims,
    Listeners,
}

impl Beside {
    fn name(self) -> &'static str {
        match self {
            Beside::Nothing => "no other ports",
            Beside::Claims => "10,000 reserved ports",
            Beside::Listeners => "10,000 listeners",
        }
    }

    fn start(self) -> Outcome<Vec<Helper>> {
        let what = match self {
            Beside::Nothing => return Ok(Vec::new()),
            Beside::Claims => "hold",
            Beside::Listeners => "listen",
        };
        let start = |from: usize| {
            let to = (from + SOCKETS_PER_PROCESS).min(PORTS);
            Helper::start(&[what, &from.to_string(), &to.to_string()])?.when_ready()
        };
        (0..PORTS).step_by(SOCKETS_PER_PROCESS).map(start).collect()
    }
}

/// Opens a listener for each number of `from..to` on a loopback address that no other helper uses.
/// Holds the listeners until a line of input arrives.
fn listen_and_hold(from: usize, to: usize) -> Outcome<()> {
    let ip = Ipv4Addr::new(127, 78, u8::try_from(from / SOCKETS_PER_PROCESS)?, 1);
    let _listeners = (from..to)
        .map(|_| TcpListener::bind((ip, 0)))
        .collect::<Result<Vec<_>, _>>()?;
    print_ready_and_wait()
}

fn run(program: &str, args: &[&str]) -> Outcome<()> {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::null());
    command.stderr(Stdio::null()).status()?;
    Ok(())
}

fn discard<T, E: std::error::Error + 'static>(result: Result<T, E>) -> Outcome<()> {
    result.map(drop).map_err(Into::into)
}

type Act<'a> = Box<dyn Fn() -> Outcome<()> + 'a>;

/// One row of the table: what is measured, how often each turn repeats it, and the row that it is
/// compared with.
struct Row<'a>(&'static str, usize, Option<&'static str>, Act<'a>);

fn rows(beside: Beside, taken: u16) -> Outcome<Vec<Row<'static>>> {
    let exe = std::env::current_exe()?.to_string_lossy().into_owned();
    let (text, selection) = (taken.to_string(), format!(":{taken}"));
    let mut rows = vec![
        Row("ss -tlnp", 1, None, Box::new(|| run("ss", &["-tlnp"]))),
        Row(
            "lsof -nP -i :PORT",
            1,
            None,
            Box::new(move || run("lsof", &["-nP", "-i", &selection])),
        ),
        Row(
            "who_holds, whole process",
            1,
            Some("ss -tlnp"),
            Box::new(move || run(&exe, &["who", &text])),
        ),
        Row(
            "who_holds, in process",
            1,
            Some("ss -tlnp"),
            Box::new(move || discard(portlease::who_holds(taken))),
        ),
        Row(
            "check_port_free, taken port",
            1,
            Some("ss -tlnp"),
            Box::new(move || match portlease::check_port_free(taken) {
                Ok(()) => Err("the port is free".into()),
                Err(diagnosis) => {
                    std::hint::black_box(diagnosis.to_string());
                    Ok(())
                }
            }),
        ),
        Row(
            "bind and drop, one port",
            20,
            None,
            Box::new(|| discard(TcpListener::bind(("0.0.0.0", FREE.start)))),
        ),
        Row(
            "check_port_free, free port",
            20,
            Some("bind and drop, one port"),
            Box::new(|| Ok(portlease::check_port_free(FREE.start)?)),
        ),
        Row(
            "bind and drop, 10,000 ports",
            1,
            None,
            Box::new(|| {
                for port in FREE {
                    drop(TcpListener::bind(("0.0.0.0", port))?);
                }
                Ok(())
            }),
        ),
        Row(
            "check_ports_free, 10,000 ports",
            1,
            Some("bind and drop, 10,000 ports"),
            Box::new(|| Ok(portlease::check_ports_free(FREE)?)),
        ),
    ];
    if beside == Beside::Listeners {
        let listeners = portlease::listeners()?;
        let addrs: Vec<SocketAddr> = listeners.iter().map(|socket| socket.local).collect();
        let at_once = move || {
            let (steady, limit) = (Duration::ZERO, Duration::from_secs(60));
            Ok(portlease::wait_until_all_listening(
                addrs.iter().copied(),
                steady,
                limit,
            )?)
        };
        rows.push(Row(
            "wait_until_all_listening, all of them",
            1,
            Some("ss -tlnp"),
            Box::new(at_once),
        ));
    }
    Ok(rows)
}

fn table(beside: Beside, rounds: usize) -> Outcome<()> {
    let _neighbours = beside.start()?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let mut rows = rows(beside, server.local_addr()?.port())?;
    rows.retain(|Row(name, _, _, act)| {
        let outcome = act();
        if let Err(error) = &outcome {
            eprintln!("left out: {name}: {error}");
        }
        outcome.is_ok()
    });
    let mut samples: Vec<Vec<Duration>> = vec![Vec::new(); rows.len()];
    for round in 0..rounds {
        for turn in 0..rows.len() {
            let i = (round + turn) % rows.len();
            let Row(_, repeat, _, act) = &rows[i];
            for _ in 0..*repeat {
                let before = Instant::now();
                act()?;
                samples[i].push(before.elapsed());
            }
        }
    }
    for samples in &mut samples {
        samples.sort();
    }
    let at = |i: usize, q: f64| {
        let samples: &[Duration] = &samples[i];
        samples[(samples.len() as f64 * q) as usize].as_secs_f64() * 1e6
    };
    println!("\nbeside {}, {rounds} rounds", beside.name());
    for (i, Row(name, _, rival, _)) in rows.iter().enumerate() {
        let rival = rival.and_then(|rival| rows.iter().position(|row| row.0 == rival));
        let ratio = rival.map_or(String::new(), |rival| {
            let ratio = at(i, 0.5) / at(rival, 0.5);
            format!("{ratio:>8.3} x {}", rows[rival].0)
        });
        println!(
            "  {name:<38}{:>12.1}{:>12.1}{:>12.1}{ratio}",
            at(i, 0.5),
            at(i, 0.9),
            at(i, 0.99)
        );
    }
    Ok(())
}

fn tables() -> Outcome<()> {
    println!(
        "{:<40}{:>12}{:>12}{:>12}",
        "", "median us", "p90 us", "p99 us"
    );
    for beside in [Beside::Nothing, Beside::Claims, Beside::Listeners] {
        table(beside, 30)?;
    }
    Ok(())
}

/// Prints the tables from a new network namespace, if the system allows one.
fn isolate_and_run() -> Outcome<()> {
    let unshare = |program: &str, arg: &str| {
        let script = "ip link set lo up 2>/dev/null; exec \"$0\" \"$1\"";
        let mut command = Command::new("unshare");
        command
            .args(["--net", "sh", "-c", script, program, arg])
            .status()
    };
    if !unshare("true", "true").is_ok_and(|status| status.success()) {
        println!("(a network namespace needs root on Linux; using the machine's own ports)");
        return tables();
    }
    let exe = std::env::current_exe()?;
    let status = unshare(&exe.to_string_lossy(), "tables")?;
    status
        .success()
        .then_some(())
        .ok_or_else(|| status.to_string().into())
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tables"] => tables(),
        ["hold", from, to] => crowd::claim_and_hold(from.parse()?, to.parse()?),
        ["listen", from, to] => listen_and_hold(from.parse()?, to.parse()?),
        ["who", port] => {
            print!("{}", portlease::who_holds(port)?);
            Ok(())
        }
        // Only `cargo bench` passes this; `cargo test --benches` has nothing to measure.
        ref args if args.contains(&"--bench") => isolate_and_run(),
        _ => Ok(()),
    }
}
