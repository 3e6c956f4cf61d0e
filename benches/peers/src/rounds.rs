//! Rounds lost under load. A round: pick a port, boot, bind by number, check which server answers,
//! stop, start again, release.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::helper::{Helper, Outcome, print_ready_and_wait};
use crate::load;
use crate::namespace::run_in_namespace;
use crate::peer::{ALL, Owner, PORTSERVER, Peer, PickedPort};

/// How many workers run in parallel, and with which ephemeral range.
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

/// The losses of one peer under one load.
#[derive(Clone, Debug)]
pub(crate) struct Losses {
    pub(crate) load: usize,
    pub(crate) peer: Peer,
    pub(crate) rounds: u64,
    pub(crate) lost: u64,
    pub(crate) first_loss: String,
}

impl Losses {
    pub(crate) fn percent(&self) -> f64 {
        self.lost as f64 * 100.0 / self.rounds as f64
    }
}

/// Runs each peer in a namespace of its own, so that sockets of one peer do not affect the next. A
/// peer that is not installed is left out, with a message.
pub(crate) fn measure(seconds: f64) -> Outcome<Vec<Losses>> {
    let mut all = Vec::new();
    for (i, load) in LOADS.iter().enumerate() {
        for peer in ALL {
            if peer == Peer::Portserver && portserver_path().is_none() {
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
            let lines = run_in_namespace(
                &setup,
                &["rounds", &nth, peer.name(), &millis],
                &[("PORTLEASE_DIR", locks)],
            )?;
            let line = lines.first().ok_or("no line")?;
            let words: Vec<&str> = line.splitn(3, '\t').collect();
            let [rounds, lost, first_loss] = words[..] else {
                return Err(format!("unexpected line {line:?}").into());
            };
            all.push(Losses {
                load: i,
                peer,
                rounds: rounds.parse()?,
                lost: lost.parse()?,
                first_loss: first_loss.to_owned(),
            });
        }
    }
    Ok(all)
}

/// Runs inside the namespace.
pub(crate) fn run(nth: usize, peer: Peer, millis: &str) -> Outcome<()> {
    let load = LOADS.get(nth).ok_or("no such load")?;
    let _portserver = if peer == Peer::Portserver {
        Some(start_portserver()?)
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
        worker.send("go")?;
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

/// One process of the load. Its threads do rounds until `time` has passed.
pub(crate) fn work(peer: Peer, threads: usize, time: Duration) -> Outcome<()> {
    print_ready_and_wait()?;
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

/// A round without a port counts as lost.
fn round(peer: Peer) -> Result<(), String> {
    let picked: PickedPort = peer
        .pick(Owner::NewProcess)
        .map_err(|why| format!("no port: {why}"))?;
    load::boot_twice(picked.port, |port| load::serve_tcp_once(port, true))
}

pub(crate) fn run_neighbour() -> Outcome<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("ready");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Blocks until the parent exits.
            let _end_of_input = std::io::stdin().read_line(&mut String::new());
            stop.store(true, Ordering::Relaxed);
        });
        load::disturb(&listener, &stop);
    });
    Ok(())
}

/// `portserver.py` is part of Python's portpicker.
pub(crate) fn portserver_path() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("portserver.py"))
        .find(|file| file.is_file())
}

/// Starts a port server with its default numbers, none of them ephemeral, and waits until it
/// answers.
pub(crate) fn start_portserver() -> Outcome<Helper> {
    let program = portserver_path().ok_or("portserver.py is not on the PATH")?;
    let mut command = Command::new(program);
    command.arg(format!("--portserver_address=@{PORTSERVER}"));
    // It logs a line for each allocation.
    command.stderr(std::process::Stdio::null());
    let helper = Helper::spawn(&mut command)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(why) = Peer::Portserver.pick(Owner::ThisProcess) {
        if Instant::now() > deadline {
            return Err(format!("the port server did not answer within 20 s: {why}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(helper)
}
