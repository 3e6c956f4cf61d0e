//! What it costs to learn who holds a port, beside the tools people use, measured side by side in one run.
//!
//! ```text
//! cargo bench --bench who
//! ```
//!
//! The rivals take turns before four backgrounds: a quiet machine; 2,000 processes of 20 descriptors; 20,000
//! connections; all of that and 10,000 listeners. As root on Linux everything runs in a network namespace of its own.
//! `whole process` starts this program anew, as `ss` and `lsof` are started.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// So many sockets fit one process at usual limits.
const PER_PROCESS: usize = 4_000;

struct Background {
    name: &'static str,
    processes: usize,
    connections: usize,
    listeners: usize,
}

const BACKGROUNDS: [Background; 4] = [
    Background { name: "quiet", processes: 0, connections: 0, listeners: 0 },
    Background { name: "2,000 processes", processes: 2_000, connections: 0, listeners: 0 },
    Background { name: "20,000 connections", processes: 0, connections: 20_000, listeners: 0 },
    Background {
        name: "both, and 10,000 listeners",
        processes: 2_000,
        connections: 20_000,
        listeners: 10_000,
    },
];

/// Ends with the value, by its id.
struct Neighbour(Child);

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Background {
    fn start(&self) -> Outcome<Vec<Neighbour>> {
        let mut started = Vec::new();
        let exe = std::env::current_exe()?;
        let mut sockets = Vec::new();
        for (what, total) in [("connections", self.connections), ("listeners", self.listeners)] {
            for nth in 0..total.div_ceil(PER_PROCESS / 2) {
                let count = (PER_PROCESS / 2).min(total - nth * (PER_PROCESS / 2));
                let args = [what.to_owned(), count.to_string(), (nth + 1).to_string()];
                let mut child =
                    Command::new(&exe).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
                sockets.push(BufReader::new(child.stdout.take().ok_or("no pipe")?));
                started.push(Neighbour(child));
            }
        }
        for ready in &mut sockets {
            let mut line = String::new();
            ready.read_line(&mut line)?;
            if line != "ready\n" {
                return Err(format!("a neighbour said {line:?}").into());
            }
        }
        // 3 standard streams and 17 more.
        let fds: String = (10..27).map(|fd| format!("exec {fd}</dev/null; ")).collect();
        for _ in 0..self.processes {
            let mut sleeper = Command::new("bash");
            sleeper.args(["-c", &format!("{fds} exec sleep 900")]).stdin(Stdio::null());
            started.push(Neighbour(sleeper.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?));
        }
        for neighbour in started.iter().rev().take(self.processes) {
            settled(neighbour.0.id())?;
        }
        Ok(started)
    }
}

/// Until it is `sleep`, with all its descriptors.
fn settled(pid: u32) -> Outcome<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::fs::read_to_string(format!("/proc/{pid}/comm"))?.trim_end() != "sleep" {
        if Instant::now() > deadline {
            return Err("a neighbour did not settle".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The role of a neighbour with many sockets, on a loopback address of its own.
fn hold(what: &str, count: usize, nth: u8) -> Outcome<()> {
    let any = SocketAddr::from((Ipv4Addr::new(127, 77, nth, 1), 0));
    let mut held: Vec<Box<dyn Send>> = Vec::new();
    let listener = TcpListener::bind(any)?;
    for _ in 0..count {
        if what == "listeners" {
            held.push(Box::new(TcpListener::bind(SocketAddr::from((Ipv4Addr::new(127, 78, nth, 1), 0)))?));
        } else {
            let client = TcpStream::connect(listener.local_addr()?)?;
            held.push(Box::new((client, listener.accept()?)));
        }
    }
    println!("ready");
    std::io::stdout().flush()?;
    // Until the parent closes the pipe, or kills.
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

fn run(program: &str, args: &[&str]) -> Outcome<()> {
    Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    Ok(())
}

fn median(samples: &mut [Duration]) -> f64 {
    samples.sort();
    samples[samples.len() / 2].as_secs_f64() * 1e6
}

type Act<'a> = &'a dyn Fn() -> Outcome<()>;

fn done<T, E: Error + 'static>(result: Result<T, E>) -> Outcome<()> {
    result.map(drop).map_err(Into::into)
}

/// The report of an assertion that fails.
fn fails(port: u16) -> Outcome<()> {
    match portlease::check_port_free(port) {
        Ok(()) => Err("it is free".into()),
        Err(diagnosis) => {
            std::hint::black_box(diagnosis.to_string());
            Ok(())
        }
    }
}

fn measure(background: &Background) -> Outcome<()> {
    let neighbours = background.start()?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let held = server.local_addr()?.port();
    let free = portlease::reserve_port();
    let mut child = Command::new(std::env::current_exe()?)
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
    let (_child, newest) = (Neighbour(child), line.trim().parse()?);
    let exe = std::env::current_exe()?.to_string_lossy().into_owned();
    let text = held.to_string();
    let selection = format!(":{held}");
    // No connection dials out from it.
    let nobodys = portlease::ReserveOptions::new().range(20000..=29999).reserve()?.port();
    let rivals: [(&str, usize, Act<'_>); 10] = [
        ("who_holds, in process", 1, &|| done(portlease::who_holds(held))),
        ("listeners::get_all, in process", 1, &get_all),
        ("who_holds, whole process", 1, &|| run(&exe, &["who", &text])),
        ("ss -tulpn", 1, &|| run("ss", &["-tulpn"])),
        ("lsof -nP -i :PORT", 1, &|| run("lsof", &["-nP", "-i", &selection])),
        ("a process that does nothing", 1, &|| run("true", &[])),
        ("failed assert_port_free, own server", 1, &|| fails(held)),
        ("failed assert_port_free, newest process", 1, &|| fails(newest)),
        ("assert_port_free of a free port", 20, &|| done(portlease::check_port_free(nobodys))),
        ("assert_port_free of a reserved port", 1, &|| done(portlease::check_port_free(&free))),
    ];
    let mut samples = vec![Vec::new(); rivals.len()];
    let rounds = if background.processes + background.connections > 0 { 11 } else { 41 };
    for _ in 0..rounds {
        for ((_, turns, act), samples) in rivals.iter().zip(&mut samples) {
            for _ in 0..*turns {
                let before = Instant::now();
                act()?;
                samples.push(before.elapsed());
            }
        }
    }
    let medians: Vec<f64> = samples.iter_mut().map(|samples| median(samples)).collect();
    println!("\n{:<40}{:>12}{:>10}{:>10}", background.name, "median us", "/ ss", "/ lsof");
    for ((name, ..), median) in rivals.iter().zip(&medians) {
        println!("  {name:<38}{median:>12.1}{:>10.2}{:>10.2}", median / medians[3], median / medians[4]);
    }
    drop(free);
    drop(neighbours);
    Ok(())
}

#[cfg(unix)]
fn get_all() -> Outcome<()> {
    listeners::get_all().map(drop).map_err(|e| e.to_string().into())
}

#[cfg(not(unix))]
fn get_all() -> Outcome<()> {
    Err("not among this system's dependencies".into())
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["who", port] => {
            println!("{}", portlease::who_holds(port)?);
            return Ok(());
        }
        [what @ ("connections" | "listeners"), count, nth] => {
            return hold(what, count.parse()?, nth.parse()?);
        }
        ["serve"] => {
            let server = TcpListener::bind("127.0.0.1:0")?;
            println!("{}", server.local_addr()?.port());
            std::io::stdout().flush()?;
            return done(std::io::stdin().read_line(&mut String::new()));
        }
        ["tables"] => {}
        _ => {
            let script = "ip link set lo up && exec \"$0\" tables";
            let exe = std::env::current_exe()?;
            let alone = Command::new("unshare").args(["-n", "true"]).status().is_ok_and(|s| s.success());
            let status = match alone {
                true => Command::new("unshare").args(["-n", "sh", "-c", script]).arg(exe).status()?,
                false => Command::new(exe).arg("tables").status()?,
            };
            return if status.success() { Ok(()) } else { Err("the measurement failed".into()) };
        }
    }
    for background in &BACKGROUNDS {
        measure(background)?;
    }
    Ok(())
}
