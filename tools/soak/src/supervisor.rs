//! Starts the processes, harms them and their lock folder at random, and prints the summary.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::Signal;

use crate::clock::{MILLISECOND, SECOND, now};
use crate::ledger::Ledger;
use crate::leftovers;
use crate::place::{Place, is_alone, is_root, set_mode};
use crate::processes::{Event, Events, Process, User};
use crate::worker::LONG_LIVED;

const WORKERS: usize = 8;

/// How long a process may take to release everything and end.
const END_TIMEOUT: u64 = 90 * SECOND;

pub(crate) fn run(minutes: f64) -> ExitCode {
    let begun = now();
    let length = (minutes * 60.0 * SECOND as f64) as u64;
    let two_users = is_root();
    let mut soak = Soak::new();
    println!(
        "soak: {minutes} min, {WORKERS} processes{}{}{}, in {}",
        if two_users {
            " of an unprivileged user, a hostile second one for the last quarter"
        } else {
            ""
        },
        if is_alone() {
            ", in namespaces of their own"
        } else {
            ""
        },
        if soak.place.has_command {
            ", with keepers"
        } else {
            ", without keepers: the command is not built"
        },
        soak.place.path().display()
    );
    while now() < begun + length {
        if two_users && soak.ledger.hostile_from.is_none() && now() > begun + length / 4 * 3 {
            soak.start_hostile();
        }
        soak.step();
    }
    soak.end();
    soak.summarize(now() - begun)
}

struct Soak {
    place: Place,
    events: Events,
    workers: Vec<Process>,
    checker: Process,
    hostile: Option<Process>,
    /// Of every process, by its number, also of those that ended.
    pids: HashMap<usize, u32>,
    next: usize,
    ledger: Ledger,
    /// Whether the checker has a port to check.
    checking: bool,
    harm_at: u64,
    stopped: Option<(usize, u64)>,
    closed: Option<(Vec<PathBuf>, u64)>,
    /// What the hostile process printed at its end.
    hostile_counts: Vec<String>,
}

impl Soak {
    fn new() -> Soak {
        let (place, events) = (Place::new(), Events::new());
        let checker = Process::start(&place, &events, usize::MAX, &["checker"], User::Own);
        let mut soak = Soak {
            place,
            events,
            workers: Vec::new(),
            checker,
            hostile: None,
            pids: HashMap::new(),
            next: 0,
            ledger: Ledger::default(),
            checking: false,
            harm_at: now() + SECOND,
            stopped: None,
            closed: None,
            hostile_counts: Vec::new(),
        };
        (0..WORKERS).for_each(|_| soak.start_worker());
        soak
    }

    fn start_worker(&mut self) {
        let number = self.next;
        self.next += 1;
        let args = ["worker", &number.to_string()];
        let worker = Process::start(&self.place, &self.events, number, &args, User::Nobody);
        self.pids.insert(number, worker.pid());
        self.workers.push(worker);
    }

    fn start_hostile(&mut self) {
        let number = self.next;
        self.next += 1;
        let worker = Process::start(
            &self.place,
            &self.events,
            number,
            &["hostile"],
            User::Hostile,
        );
        self.pids.insert(number, worker.pid());
        self.hostile = Some(worker);
        self.ledger.hostile_from = Some(now());
    }

    /// Runs for some milliseconds.
    fn step(&mut self) {
        if let Some((number, event)) = self.events.next(Duration::from_millis(2)) {
            self.take(number, event);
            // Takes what has arrived meanwhile, with a bound so that harm is done on time.
            for _ in 0..256 {
                let Some((number, event)) = self.events.next(Duration::ZERO) else {
                    break;
                };
                self.take(number, event);
            }
        }
        if !self.checking
            && let Some(port) = self.ledger.any_kept()
            && let Some(stdin) = &mut self.checker.stdin
        {
            self.checking = writeln!(stdin, "{port}").is_ok();
        }
        self.undo(now());
        if now() >= self.harm_at {
            self.harm();
            self.harm_at = now() + fastrand::u64(40..400) * MILLISECOND;
        }
        self.replace_ended();
    }

    fn take(&mut self, number: usize, event: Event) {
        let pid = self.pids.get(&number).copied().unwrap_or(0);
        match event {
            Event::Line(line) if line.starts_with("did ") => self.hostile_counts.push(line),
            Event::Line(line) => {
                self.checking &= !line.starts_with("seen ");
                self.ledger.take(number, pid, &line);
            }
            // Every line that it printed was taken before.
            Event::End => self.ledger.end(number, now()),
        }
    }

    /// Does one act of harm, picked at random.
    fn harm(&mut self) {
        match fastrand::u8(..100) {
            0..30 => {
                let Some(at) = self.short_lived() else { return };
                let mut worker = self.workers.swap_remove(at);
                if self
                    .stopped
                    .is_some_and(|(number, _)| number == worker.number)
                {
                    self.stopped = None;
                }
                // Its reservations count until before the kill, and its last lines are still taken.
                let at = now();
                worker.kill();
                self.take_all(worker.number);
                self.ledger.end(worker.number, at);
                self.ledger.count("kill -9");
                self.start_worker();
            }
            30..60 if self.stopped.is_none() => {
                let worker = &self.workers[fastrand::usize(..self.workers.len())];
                worker.signal(Signal::STOP);
                self.stopped = Some((worker.number, now() + fastrand::u64(1..200) * MILLISECOND));
                self.ledger.count("SIGSTOP and SIGCONT");
            }
            60..72 => {
                let from = now();
                remove(&self.place.locks());
                self.ledger.trouble(from, now());
                self.ledger.count("lock folder deleted");
            }
            72..90 if self.closed.is_none() => {
                let locks = self.place.locks();
                let within = std::fs::read_dir(&locks)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|e| e.path());
                let folders: Vec<PathBuf> = within
                    .filter(|path| is_folder(path))
                    .chain([locks.clone()])
                    .collect();
                if !is_folder(&locks) {
                    return;
                }
                let length = fastrand::u64(5..300) * MILLISECOND;
                // On a busy machine it may take longer until this is undone, which is noted then.
                self.ledger.trouble(now(), now() + length + SECOND);
                folders.iter().for_each(|path| set_mode(path, 0o555));
                self.closed = Some((folders, now() + length));
                self.ledger.count("lock folder made unwritable");
            }
            _ => {}
        }
    }

    /// The index of a worker that may be killed.
    fn short_lived(&self) -> Option<usize> {
        let short_lived: Vec<usize> = (0..self.workers.len())
            .filter(|at| self.workers[*at].number >= LONG_LIVED)
            .collect();
        if short_lived.is_empty() {
            None
        } else {
            Some(short_lived[fastrand::usize(..short_lived.len())])
        }
    }

    fn undo(&mut self, time: u64) {
        if let Some((number, _)) = self.stopped.take_if(|(_, until)| *until <= time)
            && let Some(worker) = self.workers.iter().find(|worker| worker.number == number)
        {
            worker.signal(Signal::CONT);
        }
        if let Some((folders, until)) = self.closed.take_if(|(_, until)| *until <= time) {
            folders
                .iter()
                .filter(|path| is_folder(path))
                .for_each(|path| set_mode(path, 0o1777));
            self.ledger.trouble(until.min(time), now());
        }
    }

    /// Replaces workers that ended by themselves, which is a finding.
    fn replace_ended(&mut self) {
        for at in (0..self.workers.len()).rev() {
            if let Some(status) = self.workers[at].ended() {
                let worker = self.workers.swap_remove(at);
                self.ledger.find(format!(
                    "process {} ended by itself: {status}",
                    worker.pid()
                ));
                self.start_worker();
            }
        }
    }

    /// Takes events until the output of this process ends.
    fn take_all(&mut self, last: usize) {
        let until = now() + SECOND;
        while now() < until {
            match self.events.next(Duration::from_millis(10)) {
                Some((number, Event::End)) if number == last => return,
                Some((number, event)) => self.take(number, event),
                None => {}
            }
        }
    }

    fn end(&mut self) {
        self.undo(u64::MAX);
        drop(self.checker.stdin.take());
        for worker in self.hostile.iter_mut().chain(&mut self.workers) {
            drop(worker.stdin.take());
        }
        let closed = now();
        while now() < closed + END_TIMEOUT && !self.all_ended() {
            if let Some((number, event)) = self.events.next(Duration::from_millis(5)) {
                self.take(number, event);
            }
        }
        let mut stuck = Vec::new();
        for worker in self.hostile.iter_mut().chain(&mut self.workers) {
            match worker.ended() {
                Some(status) if status.success() => {}
                status => stuck.push(format!(
                    "process {} did not end well: {status:?}",
                    worker.pid()
                )),
            }
        }
        self.ledger.findings.extend(stuck);
        println!(
            "soak: all ended {} ms after their input was closed",
            (now() - closed) / MILLISECOND
        );
        self.workers.clear();
        self.hostile = None;
        while let Some((number, event)) = self.events.next(Duration::from_millis(100)) {
            self.take(number, event);
        }
        self.ledger.judge();
        let left = leftovers::find(&self.place);
        self.ledger.findings.extend(left);
    }

    fn all_ended(&mut self) -> bool {
        self.hostile
            .iter_mut()
            .chain(&mut self.workers)
            .all(|worker| worker.ended().is_some())
    }

    /// Prints the summary.
    fn summarize(self, took: u64) -> ExitCode {
        let ledger = &self.ledger;
        println!("after {} s, {} processes in all:", took / SECOND, self.next);
        for (what, count) in &ledger.counts {
            println!("  {count:>9}  {what}");
        }
        let rounds: Vec<String> = ledger
            .rounds
            .iter()
            .map(|(kind, [a, b])| format!("{kind} {a} + {b}"))
            .collect();
        println!(
            "  rounds served, before the second user and beside it: {}",
            rounds.join(", ")
        );
        for line in ledger.usage().iter().chain(&self.hostile_counts) {
            println!("  {line}");
        }
        let mut findings = ledger.findings.clone();
        let phases = if ledger.hostile_from.is_some() { 2 } else { 1 };
        for kind in ["tcp", "udp", "pair", "block", "exact", "plain"] {
            let rounds = ledger.rounds.get(kind).copied().unwrap_or_default();
            if rounds[..phases].contains(&0) {
                findings.push(format!("no round was served of {kind}: {rounds:?}"));
            }
        }
        const SHOWN: usize = 40;
        for finding in findings.iter().take(SHOWN) {
            println!("FOUND: {finding}");
        }
        println!("soak: {} findings", findings.len());
        if findings.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

fn is_folder(path: &std::path::Path) -> bool {
    // Does not follow a link, which the second user may have planted.
    std::fs::symlink_metadata(path).is_ok_and(|about| about.is_dir())
}

/// Retries, because other processes create files in it meanwhile.
fn remove(path: &std::path::Path) {
    for _ in 0..50 {
        let removed = std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path));
        if removed.is_ok() || std::fs::symlink_metadata(path).is_err() {
            return;
        }
    }
}
