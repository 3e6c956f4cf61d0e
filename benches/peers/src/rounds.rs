//! Rounds lost under load: pick a port, boot, bind by number, check who answers, stop, start again, let go.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::helper::{Helper, Outcome, say_ready_and_wait};
use crate::load;
use crate::namespace::alone;
use crate::peer::{ALL, Held, Owner, PORTSERVER, Peer};

/// What is done at once, and how many ephemeral ports there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) title: &'static str,
    range: &'static str,
    processes: usize,
    threads: usize,
}

pub(crate) const LOADS: [Load; 3] = [
    Load {
        title: "512 ephemeral ports",
        range: "40000 40511",
        processes: 4,
        threads: 8,
    },
    Load {
        title: "512 ephemeral ports, 60 processes",
        range: "40000 40511",
        processes: 60,
        threads: 1,
    },
    Load {
        title: "default range",
        range: "32768 60999",
        processes: 4,
        threads: 8,
    },
];

/// How one peer fared under one load.
#[derive(Clone, Debug)]
pub(crate) struct Fared {
    pub(crate) load: usize,
    pub(crate) peer: Peer,
    pub(crate) rounds: u64,
    pub(crate) lost: u64,
    /// The first loss.
    pub(crate) why: String,
}

impl Fared {
    pub(crate) fn percent(&self) -> f64 {
        self.lost as f64 * 100.0 / self.rounds as f64
    }
}

/// Each peer has a namespace of its own, so that what one leaves behind is not in the next one's way. One that is not
/// installed is left out, by name.
pub(crate) fn measure(seconds: f64) -> Outcome<Vec<Fared>> {
    let mut all = Vec::new();
    for (i, load) in LOADS.iter().enumerate() {
        for peer in ALL {
            if peer == Peer::Portserver && portserver().is_none() {
                eprintln!(
                    "left out: {}: portserver.py is not on the PATH",
                    peer.name()
                );
                continue;
            }
            eprintln!("rounds: {}: {}", load.title, peer.name());
            let folder = tempfile::tempdir()?;
            let locks = folder.path().join("portlease");
            let locks = locks
                .to_str()
                .ok_or("a temporary folder whose name is not UTF-8")?;
            let setup = format!(
                "echo {} > /proc/sys/net/ipv4/ip_local_port_range",
                load.range
            );
            let (nth, millis) = (i.to_string(), (seconds * 1000.0).to_string());
            let lines = alone(
                &setup,
                &["rounds", &nth, peer.name(), &millis],
                &[("PORTLEASE_DIR", locks)],
            )?;
            let line = lines.first().ok_or("no line")?;
            let words: Vec<&str> = line.splitn(3, '\t').collect();
            let [rounds, lost, why] = words[..] else {
                return Err(format!("it said {line:?}").into());
            };
            all.push(Fared {
                load: i,
                peer,
                rounds: rounds.parse()?,
                lost: lost.parse()?,
                why: why.to_owned(),
            });
        }
    }
    Ok(all)
}

/// Within the namespace.
pub(crate) fn run(nth: usize, peer: Peer, millis: &str) -> Outcome<()> {
    let load = LOADS.get(nth).ok_or("no such load")?;
    let _portserver = if peer == Peer::Portserver {
        Some(serve_ports()?)
    } else {
        None
    };
    let _neighbour = Helper::start(&["neighbour"])?.when_ready()?;
    let threads = load.threads.to_string();
    let start = |_| Helper::start(&["rounder", peer.name(), &threads, millis])?.when_ready();
    let mut workers = (0..load.processes)
        .map(start)
        .collect::<Outcome<Vec<_>>>()?;
    for worker in &mut workers {
        worker.tell("go")?;
    }
    let (mut rounds, mut lost, mut why) = (0u64, 0u64, String::new());
    for worker in &mut workers {
        let line = worker.line()?;
        let words: Vec<&str> = line.splitn(3, '\t').collect();
        rounds += words.first().ok_or("no count of rounds")?.parse::<u64>()?;
        lost += words.get(1).ok_or("no count of losses")?.parse::<u64>()?;
        if let Some(reason) = words.get(2).filter(|_| why.is_empty()) {
            (*reason).clone_into(&mut why);
        }
    }
    println!("{rounds}\t{lost}\t{why}");
    Ok(())
}

/// A process of the load: threads that do rounds until the time is over.
pub(crate) fn work(peer: Peer, threads: usize, time: Duration) -> Outcome<()> {
    say_ready_and_wait()?;
    let end = Instant::now() + time;
    let (rounds, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    let first = Mutex::new(String::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while Instant::now() < end {
                    let outcome = round(peer);
                    rounds.fetch_add(1, Ordering::Relaxed);
                    if let Err(why) = outcome {
                        lost.fetch_add(1, Ordering::Relaxed);
                        if let Ok(mut first) = first.lock()
                            && first.is_empty()
                        {
                            *first = why;
                        }
                    }
                }
            });
        }
    });
    let why = first.into_inner()?.replace(['\n', '\t'], " ");
    println!("{}\t{}\t{why}", rounds.into_inner(), lost.into_inner());
    Ok(())
}

/// "No port" is lost too.
fn round(peer: Peer) -> Result<(), String> {
    let held: Held = peer
        .pick(Owner::Fresh)
        .map_err(|why| format!("no port: {why}"))?;
    load::boot_twice(held.port, |port| load::serve_tcp_once(port, true))
}

pub(crate) fn be_neighbour() -> Outcome<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("ready");
    let gone = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Until the parent is gone.
            let _end = std::io::stdin().read_line(&mut String::new());
            gone.store(true, Ordering::Relaxed);
        });
        load::disturb(&listener, &gone);
    });
    Ok(())
}

/// `portserver.py`, as Python's portpicker brings it.
pub(crate) fn portserver() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("portserver.py"))
        .find(|file| file.is_file())
}

/// A port server that is up, with the numbers that it has by default, none of them ephemeral.
pub(crate) fn serve_ports() -> Outcome<Helper> {
    let program = portserver().ok_or("portserver.py is not on the PATH")?;
    let mut command = Command::new(program);
    command.arg(format!("--portserver_address=@{PORTSERVER}"));
    // It keeps a line for each allocation.
    command.stderr(std::process::Stdio::null());
    let helper = Helper::of(&mut command)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(why) = Peer::Portserver.pick(Owner::This) {
        if Instant::now() > deadline {
            return Err(format!("the port server did not answer within 20 s: {why}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(helper)
}
