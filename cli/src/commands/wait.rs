//! `portlease wait`: until servers listen, or let go.

use serde::Serialize;

use crate::args::Wait;
use crate::condition::Aim;
use crate::exit;
use crate::failure::Failure;
use crate::finding::Finding;
use crate::output::console::Console;
use crate::output::json::VERSION;
use crate::ports::Ports;
use crate::wait_loop::{self, Outcome};

/// The process ended first: neither what was waited for, nor its time run out.
const ENDED: u8 = 2;

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    ports: Vec<String>,
    outcome: &'static str,
}

pub(crate) fn wait(console: &Console, args: &Wait) -> Result<u8, Failure> {
    let endpoints = Ports::all(&args.ports);
    let aim = if args.listening {
        Aim::Listening
    } else {
        Aim::Free
    };
    let outcome = wait_loop::keep(console, &endpoints, aim, args.timeout, args.pid)?;
    let (word, code) = match &outcome {
        Outcome::Met => ("met", exit::YES),
        Outcome::TimedOut => ("timed_out", exit::NO),
        Outcome::Ended => ("ended", ENDED),
    };
    if console.is_json() {
        let ports = endpoints.iter().map(ToString::to_string).collect();
        console.object(&Answer {
            version: VERSION,
            ports,
            outcome: word,
        })?;
    } else if outcome == Outcome::TimedOut {
        for endpoint in endpoints {
            let finding = Finding::new(endpoint, aim);
            if finding.problem.is_some() {
                console.finding(&finding, aim)?;
            }
        }
    }
    Ok(code)
}
