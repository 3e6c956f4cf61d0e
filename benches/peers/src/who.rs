//! Measures what it costs to find the holder of a port, side by side with the common tools.
//!
//! The rivals take turns under four backgrounds: a quiet machine; 2,000 processes of 20
//! descriptors; 20,000 connections; all of that and 10,000 listeners. Each background has a network
//! namespace of its own. `ss` and `lsof` run as new processes, so `whole process` starts this
//! program again, too. `system calls alone` makes only the system calls that every method needs. It
//! makes them in one thread, and ignores their results.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::helper::{Helper, Outcome, print_ready_and_wait};
use crate::namespace::run_in_namespace;

/// The most sockets of one helper process. The hard limit on descriptors must be higher.
const SOCKETS_PER_PROCESS: usize = 4_000;

pub(crate) struct Background {
    pub(crate) name: &'static str,
    processes: usize,
    connections: usize,
    listeners: usize,
}

pub(crate) const BACKGROUNDS: [Background; 4] = [
    Background {
        name: "quiet",
        processes: 0,
        connections: 0,
        listeners: 0,
    },
    Background {
        name: "2,000 processes",
        processes: 2_000,
        connections: 0,
        listeners: 0,
    },
    Background {
        name: "20,000 connections",
        processes: 0,
        connections: 20_000,
        listeners: 0,
    },
    Background {
        name: "both, and 10,000 listeners",
        processes: 2_000,
        connections: 20_000,
        listeners: 10_000,
    },
];

/// The median time of one method under one background.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    pub(crate) background: usize,
    pub(crate) method: String,
    pub(crate) median_us: f64,
}

pub(crate) fn measure() -> Outcome<Vec<Timing>> {
    let mut all = Vec::new();
    for (nth, background) in BACKGROUNDS.iter().enumerate() {
        eprintln!("who: {}", background.name);
        for line in run_in_namespace("true", &["who-holds", &nth.to_string()], &[])? {
            let (method, median) = line.split_once('\t').ok_or("a line without a figure")?;
            all.push(Timing {
                background: nth,
                method: method.to_owned(),
                median_us: median.parse()?,
            });
        }
    }
    Ok(all)
}

impl Background {
    fn start(&self) -> Outcome<(Vec<Helper>, Vec<Sleeper>)> {
        let mut sockets = Vec::new();
        for (what, total) in [
            ("connections", self.connections),
            ("listeners", self.listeners),
        ] {
            for nth in 0..total.div_ceil(SOCKETS_PER_PROCESS / 2) {
                let count = (SOCKETS_PER_PROCESS / 2).min(total - nth * (SOCKETS_PER_PROCESS / 2));
                sockets.push(Helper::start(&[
                    what,
                    &count.to_string(),
                    &(nth + 1).to_string(),
                ])?);
            }
        }
        let sockets = sockets
            .into_iter()
            .map(Helper::when_ready)
            .collect::<Outcome<Vec<_>>>()?;
        let sleepers = (0..self.processes)
            .map(|_| Sleeper::start())
            .collect::<Outcome<Vec<_>>>()?;
        for sleeper in &sleepers {
            wait_for_exec(sleeper.0.id())?;
        }
        Ok((sockets, sleepers))
    }
}

/// A process with 20 descriptors. Dropping the value kills it.
struct Sleeper(std::process::Child);

impl Sleeper {
    fn start() -> Outcome<Sleeper> {
        // 3 standard streams and 17 more.
        let descriptors: String = (10..27)
            .map(|fd| format!("exec {fd}</dev/null; "))
            .collect();
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("{descriptors} exec sleep 900")]);
        Ok(Sleeper(
            bash.stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?,
        ))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // The child may have exited already.
        let _exited = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Waits until the process has called exec for `sleep`. Then it has opened all its descriptors.
fn wait_for_exec(pid: u32) -> Outcome<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::fs::read_to_string(format!("/proc/{pid}/comm"))?.trim_end() != "sleep" {
        if Instant::now() > deadline {
            return Err("a background process did not exec `sleep` within 60 s".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Opens `count` listeners or connections on a loopback address that no other helper uses. Holds
/// them until a line of input arrives, or the input ends.
pub(crate) fn hold_sockets(what: &str, count: usize, nth: u8) -> Outcome<()> {
    let limit = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, limit)?;
    let any = SocketAddr::from((Ipv4Addr::new(127, 77, nth, 1), 0));
    let mut held: Vec<Box<dyn Send>> = Vec::new();
    let listener = TcpListener::bind(any)?;
    for _ in 0..count {
        if what == "listeners" {
            held.push(Box::new(TcpListener::bind(SocketAddr::from((
                Ipv4Addr::new(127, 78, nth, 1),
                0,
            )))?));
        } else {
            let client = TcpStream::connect(listener.local_addr()?)?;
            held.push(Box::new((client, listener.accept()?)));
        }
    }
    print_ready_and_wait()
}

pub(crate) fn serve() -> Outcome<()> {
    let server = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", server.local_addr()?.port());
    discard(std::io::stdin().read_line(&mut String::new()))
}

fn run(program: &str, args: &[&str]) -> Outcome<()> {
    Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    Ok(())
}

fn median(samples: &mut [Duration]) -> f64 {
    samples.sort();
    samples[samples.len() / 2].as_secs_f64() * 1e6
}

type Action<'a> = &'a dyn Fn() -> Outcome<()>;

fn discard<T, E: Error + 'static>(result: Result<T, E>) -> Outcome<()> {
    result.map(drop).map_err(Into::into)
}

/// Formats the report too, as a failed assertion does.
fn failed_check(port: u16) -> Outcome<()> {
    match portlease::check_port_free(port) {
        Ok(()) => Err("the port is free".into()),
        Err(diagnosis) => {
            std::hint::black_box(diagnosis.to_string());
            Ok(())
        }
    }
}

/// Makes the system calls alone: one scan of the kernel's TCP and UDP sockets, and one readlink of
/// every descriptor of every process.
pub(crate) fn floor(port: u16) -> Outcome<()> {
    use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, sendto, socket,
    };
    use std::os::fd::OwnedFd;

    const DONE: u16 = 3;
    let diag = socket(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut answers = vec![0; 32 * 1024];
    for (family, protocol) in [(2u8, 6u8), (10, 6), (2, 17), (10, 17)] {
        let mut question = [
            72u32.to_ne_bytes(),
            0x0301_0014u32.to_ne_bytes(),
            [0; 4],
            [0; 4],
        ]
        .concat();
        question.extend([family, protocol, 0, 0]);
        question.extend(u32::MAX.to_ne_bytes());
        question.extend(port.to_be_bytes());
        question.resize(64, 0);
        question.extend([0xff; 8]);
        sendto(
            &diag,
            &question,
            SendFlags::empty(),
            &netlink::SocketAddrNetlink::new(0, 0),
        )?;
        loop {
            let (length, _) = recv(&diag, &mut answers[..], RecvFlags::empty())?;
            let mut at = 0;
            let mut last = false;
            while let Some(header) = answers[..length].get(at..at + 16) {
                last |= u16::from_ne_bytes([header[4], header[5]]) == DONE;
                let step = u32::from_ne_bytes([header[0], header[1], header[2], header[3]])
                    .next_multiple_of(4);
                at += (step as usize).max(16);
            }
            if last {
                break;
            }
        }
    }
    let open = |at: &OwnedFd, path: &str| {
        openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    };
    let proc = openat(
        CWD,
        "/proc",
        OFlags::RDONLY | OFlags::DIRECTORY,
        Mode::empty(),
    )?;
    let (mut outer, mut inner, mut link) = (vec![], vec![], [0; 64]);
    outer.reserve(32 * 1024);
    inner.reserve(32 * 1024);
    let mut processes = RawDir::new(&proc, outer.spare_capacity_mut());
    while let Some(process) = processes.next() {
        let process = process?;
        let name = process.file_name().to_str()?;
        let Some(folder) = name
            .parse::<u32>()
            .ok()
            .and_then(|_| open(&proc, &format!("{name}/fd")).ok())
        else {
            continue;
        };
        let mut descriptors = RawDir::new(&folder, inner.spare_capacity_mut());
        while let Some(Ok(descriptor)) = descriptors.next() {
            // The descriptor may have been closed meanwhile.
            let _target = readlinkat_raw(&folder, descriptor.file_name(), &mut link);
        }
    }
    std::hint::black_box((answers, link));
    Ok(())
}

/// Runs inside the namespace.
pub(crate) fn compare(background: &Background) -> Outcome<()> {
    let _neighbours = background.start()?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let held = server.local_addr()?.port();
    let reserved = portlease::reserve_port();
    let mut child = Helper::start(&["serve"])?;
    let newest = child.line()?.parse()?;
    let exe = std::env::current_exe()?.to_string_lossy().into_owned();
    let text = held.to_string();
    let selection = format!(":{held}");
    let tcp = format!("{held}/tcp");
    // Outside the ephemeral range, so that no outgoing connection uses it.
    let free = portlease::ReserveOptions::new()
        .range(20000..=29999)
        .reserve()?
        .port();
    let rivals: [(&str, usize, Action<'_>); 15] = [
        ("who_holds, in process", 1, &|| {
            discard(portlease::who_holds(held))
        }),
        ("system calls alone, in process", 1, &|| floor(held)),
        ("listeners, in process", 1, &|| {
            listeners::get_all()
                .map(drop)
                .map_err(|e| e.to_string().into())
        }),
        ("netstat2, in process", 1, &|| discard(sockets_with_pids())),
        ("who_holds, whole process", 1, &|| {
            run(&exe, &["who", &text])
        }),
        ("system calls alone, whole process", 1, &|| {
            run(&exe, &["floor", &text])
        }),
        ("ss -tulpn", 1, &|| run("ss", &["-tulpn"])),
        ("lsof -nP -i :PORT", 1, &|| {
            run("lsof", &["-nP", "-i", &selection])
        }),
        ("netstat -tulpn", 1, &|| run("netstat", &["-tulpn"])),
        ("fuser PORT/tcp", 1, &|| run("fuser", &[&tcp])),
        ("a process that does nothing", 1, &|| run("true", &[])),
        ("failed assert_port_free, own server", 1, &|| {
            failed_check(held)
        }),
        ("failed assert_port_free, newest process", 1, &|| {
            failed_check(newest)
        }),
        ("assert_port_free of a free port", 20, &|| {
            discard(portlease::check_port_free(free))
        }),
        ("assert_port_free of a reserved port", 1, &|| {
            discard(portlease::check_port_free(&reserved))
        }),
    ];
    let is_installed = |(method, _, action): &(&str, usize, Action<'_>)| match action() {
        Ok(()) => true,
        Err(error) => {
            eprintln!("left out: {method}: {error}");
            false
        }
    };
    let rivals: Vec<(&str, usize, Action<'_>)> = rivals.into_iter().filter(is_installed).collect();
    let mut samples = vec![Vec::new(); rivals.len()];
    let rounds = if background.processes + background.connections > 0 {
        11
    } else {
        41
    };
    for _ in 0..rounds {
        for ((_, turns, action), samples) in rivals.iter().zip(&mut samples) {
            for _ in 0..*turns {
                let before = Instant::now();
                action()?;
                samples.push(before.elapsed());
            }
        }
    }
    for ((method, ..), samples) in rivals.iter().zip(&mut samples) {
        println!("{method}\t{}", median(samples));
    }
    Ok(())
}

fn sockets_with_pids() -> Result<Vec<netstat2::SocketInfo>, netstat2::error::Error> {
    let (families, protocols) = (
        netstat2::AddressFamilyFlags::all(),
        netstat2::ProtocolFlags::all(),
    );
    netstat2::get_sockets_info(families, protocols)
}
