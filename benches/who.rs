//! What it costs to learn who holds a port, beside the tools people use, measured side by side in one run.
//!
//! ```text
//! cargo bench --bench who
//! ```
//!
//! The rivals take turns before four backgrounds: a quiet machine; 2,000 processes of 20 descriptors; 20,000
//! connections; all of that and 10,000 listeners. As root on Linux everything runs in a network namespace of its own.
//! `whole process` starts this program anew, as `ss` and `lsof` are started. The floor is the system calls that no way
//! of finding out can do without, by one thread, with nothing made of their answers.

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

/// One walk of the kernel over its TCP and its UDP sockets, and a look at every descriptor of every process.
#[cfg(target_os = "linux")]
fn floor(port: u16) -> Outcome<()> {
    use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, sendto, socket};
    use std::os::fd::OwnedFd;

    const DONE: u16 = 3;
    let diag = socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::SOCK_DIAG))?;
    let mut answers = vec![0; 32 * 1024];
    for (family, protocol) in [(2u8, 6u8), (10, 6), (2, 17), (10, 17)] {
        let mut question = [72u32.to_ne_bytes(), 0x0301_0014u32.to_ne_bytes(), [0; 4], [0; 4]].concat();
        question.extend([family, protocol, 0, 0]);
        question.extend(u32::MAX.to_ne_bytes());
        question.extend(port.to_be_bytes());
        question.resize(64, 0);
        question.extend([0xff; 8]);
        sendto(&diag, &question, SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0))?;
        loop {
            let (length, _) = recv(&diag, &mut answers[..], RecvFlags::empty())?;
            let mut at = 0;
            let mut last = false;
            while let Some(header) = answers[..length].get(at..at + 16) {
                last |= u16::from_ne_bytes([header[4], header[5]]) == DONE;
                let step =
                    u32::from_ne_bytes([header[0], header[1], header[2], header[3]]).next_multiple_of(4);
                at += (step as usize).max(16);
            }
            if last {
                break;
            }
        }
    }
    let open = |at: &OwnedFd, path: &str| openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    let proc = openat(CWD, "/proc", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let (mut outer, mut inner, mut link) = (vec![], vec![], [0; 64]);
    outer.reserve(32 * 1024);
    inner.reserve(32 * 1024);
    let mut processes = RawDir::new(&proc, outer.spare_capacity_mut());
    while let Some(process) = processes.next() {
        let process = process?;
        let name = process.file_name().to_str()?;
        let Some(folder) = name.parse::<u32>().ok().and_then(|_| open(&proc, &format!("{name}/fd")).ok())
        else {
            continue;
        };
        let mut descriptors = RawDir::new(&folder, inner.spare_capacity_mut());
        while let Some(Ok(descriptor)) = descriptors.next() {
            // One that was closed meanwhile tells nothing.
            let _seen = readlinkat_raw(&folder, descriptor.file_name(), &mut link);
        }
    }
    std::hint::black_box((answers, link));
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn floor(_port: u16) -> Outcome<()> {
    Err("what the least is has been measured on Linux alone".into())
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
    let rivals: [(&str, usize, Act<'_>); 12] = [
        ("who_holds, in process", 1, &|| done(portlease::who_holds(held))),
        ("the floor, in process", 1, &|| floor(held)),
        ("listeners::get_all, in process", 1, &get_all),
        ("who_holds, whole process", 1, &|| run(&exe, &["who", &text])),
        ("the floor, whole process", 1, &|| run(&exe, &["floor", &text])),
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
    let at = |name: &str| {
        rivals.iter().position(|(known, ..)| known.starts_with(name)).map_or(f64::NAN, |i| medians[i])
    };
    let (ss, lsof) = (at("ss "), at("lsof "));
    println!("\n{:<40}{:>12}{:>10}{:>10}", background.name, "median us", "/ ss", "/ lsof");
    for ((name, ..), median) in rivals.iter().zip(&medians) {
        println!("  {name:<38}{median:>12.1}{:>10.2}{:>10.2}", median / ss, median / lsof);
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
        ["floor", port] => return floor(port.parse()?),
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
