//! Compares portlease with its alternatives, side by side on this machine (Linux, as root or where
//! users may create namespaces):
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml [-- SECONDS]
//! ```
//!
//! It writes the tables into `benches/RESULTS.md` and draws `docs/figures/*.svg`. SECONDS is how
//! long each peer does rounds under each load, 5 by default. Python's port server takes part if
//! `portserver.py` is on the PATH.

mod cost;
#[path = "../../support/crowd.rs"]
mod crowd;
mod figure;
#[path = "../../support/helper.rs"]
mod helper;
#[allow(
    dead_code,
    reason = "the tests' servers; the UDP ones are not compared"
)]
#[path = "../../../tests/support/load.rs"]
mod load;
mod namespace;
mod peer;
mod report;
mod rounds;
mod who;

use std::time::Duration;

use helper::Outcome;
use peer::Peer;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let peer = |name: &str| Peer::of(name).ok_or_else(|| format!("no such peer: {name:?}"));
    let millis = |text: &str| text.parse().map(Duration::from_millis);
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => everything(5.0),
        // This program starts itself with these arguments, inside a namespace.
        ["rounds", nth, name, time] => rounds::run(nth.parse()?, peer(name)?, time),
        ["rounder", name, threads, time] => {
            rounds::work(peer(name)?, threads.parse()?, millis(time)?)
        }
        ["neighbour"] => rounds::run_neighbour(),
        ["costs", fill] => cost::run(fill.parse()?),
        ["picker", name, time] => cost::work(peer(name)?, millis(time)?),
        ["hold", from, to] => crowd::claim_and_hold(from.parse()?, to.parse()?),
        ["who-holds", nth] => who::compare(
            who::BACKGROUNDS
                .get(nth.parse::<usize>()?)
                .ok_or("no such background")?,
        ),
        ["who", port] => {
            println!("{}", portlease::who_holds(port)?);
            Ok(())
        }
        ["floor", port] => who::floor(port.parse()?),
        ["serve"] => who::serve(),
        [what @ ("connections" | "listeners"), count, nth] => {
            who::hold_sockets(what, count.parse()?, nth.parse()?)
        }
        [seconds] => match seconds.parse() {
            Ok(seconds) if (0.1..=60.0).contains(&seconds) => everything(seconds),
            _ => Err(
                format!("{seconds:?}: expected seconds for each peer and load, 0.1 to 60").into(),
            ),
        },
        _ => Err("expected at most one argument: SECONDS for each peer and load".into()),
    }
}

fn everything(seconds: f64) -> Outcome<()> {
    let losses = rounds::measure(seconds)?;
    let costs = cost::measure()?;
    let timings = who::measure()?;
    figure::draw(&losses, &costs, &timings)?;
    report::write(seconds, &losses, &costs, &timings)
}
