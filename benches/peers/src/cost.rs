//! What one port costs: picked or reserved, then released.

use std::time::{Duration, Instant};

use crate::crowd;
use crate::helper::{Helper, Outcome, print_ready_and_wait};
use crate::namespace::run_in_namespace;
use crate::peer::{ALL, Owner, Peer};
use crate::rounds::{portserver_path, start_portserver};

/// Percentages of the ephemeral range that other processes claim.
pub(crate) const FILLS: [usize; 5] = [0, 25, 50, 75, 90];
pub(crate) const PROCESSES: [usize; 3] = [1, 2, 16];

const RANGE: (u16, u16) = (32768, 60999);

/// The peers take turns, in slices.
const SLICES: usize = 3;
const SLICE: Duration = Duration::from_millis(150);

#[derive(Clone, Debug)]
pub(crate) struct Cost {
    pub(crate) fill: usize,
    pub(crate) processes: usize,
    pub(crate) peer: Peer,
    pub(crate) median_us: f64,
}

pub(crate) fn measure() -> Outcome<Vec<Cost>> {
    let mut all = Vec::new();
    for fill in FILLS {
        eprintln!("cost: {fill} % of the ephemeral range claimed");
        let folder = tempfile::tempdir()?;
        let locks = folder.path().join("portlease");
        let locks = locks
            .to_str()
            .ok_or("a temporary folder whose name is not UTF-8")?;
        let setup = format!(
            "echo {} {} > /proc/sys/net/ipv4/ip_local_port_range",
            RANGE.0, RANGE.1
        );
        for line in run_in_namespace(
            &setup,
            &["costs", &fill.to_string()],
            &[("PORTLEASE_DIR", locks)],
        )? {
            let words: Vec<&str> = line.split('\t').collect();
            let [processes, peer, median] = words[..] else {
                return Err(format!("unexpected line {line:?}").into());
            };
            let peer = Peer::of(peer).ok_or("no such peer")?;
            all.push(Cost {
                fill,
                processes: processes.parse()?,
                peer,
                median_us: median.parse()?,
            });
        }
    }
    Ok(all)
}

/// Runs inside the namespace.
pub(crate) fn run(fill: usize) -> Outcome<()> {
    let mut peers: Vec<Peer> = ALL
        .into_iter()
        .filter(|peer| peer.has_reusable_ports())
        .collect();
    let _portserver = match portserver_path() {
        Some(_) => Some(start_portserver()?),
        None => {
            peers.retain(|peer| *peer != Peer::Portserver);
            None
        }
    };
    warm_up()?;
    let _crowd = crowd::claim_percent(fill)?;
    for processes in PROCESSES {
        let mut samples = vec![Vec::new(); peers.len()];
        for _ in 0..SLICES {
            for (peer, samples) in peers.iter().zip(&mut samples) {
                let millis = SLICE.as_millis().to_string();
                let start = |_| Helper::start(&["picker", peer.name(), &millis])?.when_ready();
                let mut workers = (0..processes).map(start).collect::<Outcome<Vec<_>>>()?;
                for worker in &mut workers {
                    worker.send("go")?;
                }
                for worker in &mut workers {
                    let line = worker.line()?;
                    let nanos = line.split_whitespace().map(str::parse::<u64>);
                    samples.extend(nanos.collect::<Result<Vec<_>, _>>()?);
                }
            }
        }
        for (peer, samples) in peers.iter().zip(&mut samples) {
            samples.sort_unstable();
            let median = samples
                .get(samples.len() / 2)
                .ok_or("nothing was measured")?;
            println!("{processes}\t{}\t{}", peer.name(), *median as f64 / 1000.0);
        }
    }
    Ok(())
}

/// Picks until `time` has passed, and prints every sample in nanoseconds.
pub(crate) fn work(peer: Peer, time: Duration) -> Outcome<()> {
    // The first pick includes work that is done once per process.
    drop(peer.pick(Owner::ThisProcess)?);
    print_ready_and_wait()?;
    let (started, mut nanos) = (Instant::now(), Vec::new());
    while started.elapsed() < time {
        let before = Instant::now();
        drop(peer.pick(Owner::ThisProcess)?);
        nanos.push(before.elapsed().as_nanos().to_string());
    }
    println!("{}", nanos.join(" "));
    Ok(())
}

/// Creates the lock files, as on a machine where the suite ran before.
fn warm_up() -> Outcome<()> {
    for port in crowd::ports_in_fill_order()? {
        // A port that is in use is never picked, so it needs no lock file. This runs before others
        // claim ports, because the diagnosis of each refusal takes long.
        let _maybe_in_use = portlease::ReserveOptions::new().port(port).reserve();
    }
    Ok(())
}
