//! Starts the processes, harms them and their lock folder at random, and prints the summary.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::clock::{MILLISECOND, SECOND, now};
use crate::ledger::Ledger;
use crate::leftovers;
use crate::place::{Place, is_alone, is_root};
use crate::processes::{Event, Events, Process, User, command};
use crate::ranges::Ranges;

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

pub(crate) struct Soak {
    pub(crate) place: Place,
    events: Events,
    pub(crate) workers: Vec<Process>,
    checker: Process,
    /// One of the workers' user, and one of another user.
    pub(crate) sweepers: Vec<Process>,
    /// The process that enters other network namespaces.
    traveller: Option<Process>,
    hostile: Option<Process>,
    /// The pid of every process by the number of the process, also of processes that have ended.
    pids: HashMap<usize, u32>,
    pub(crate) next: usize,
    pub(crate) ledger: Ledger,
    /// Whether the checker is checking a port.
    checking: bool,
    harm_at: u64,
    change_range_at: u64,
    pub(crate) stopped: Option<(usize, u64)>,
    pub(crate) closed: Option<(Vec<PathBuf>, u64)>,
    /// What the hostile process printed at its end.
    pub(crate) hostile_counts: Vec<String>,
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
            sweepers: Vec::new(),
            traveller: None,
            hostile: None,
            pids: HashMap::new(),
            next: 0,
            ledger: Ledger::default(),
            checking: false,
            harm_at: now() + SECOND,
            change_range_at: now() + 2 * SECOND,
            stopped: None,
            closed: None,
            hostile_counts: Vec::new(),
        };
        soak.ledger.ranges = Ranges::read();
        (0..WORKERS).for_each(|_| soak.start_worker());
        soak.start_sweeper(User::Nobody);
        soak.start_sweeper(User::Other);
        if Ranges::are_own() {
            soak.start_traveller();
        }
        soak
    }

    pub(crate) fn start_worker(&mut self) {
        let number = self.next;
        self.next += 1;
        let args = ["worker", &number.to_string()];
        let worker = Process::start(&self.place, &self.events, number, &args, User::Nobody);
        self.pids.insert(number, worker.pid());
        self.workers.push(worker);
    }

    /// Starts a sweeper of the workers' user if the last one was of that user. Otherwise the new
    /// one runs as root or as another unprivileged user, at random.
    pub(crate) fn start_sweeper(&mut self, last: User) {
        let user = match last {
            User::Nobody => User::Nobody,
            _ if fastrand::bool() => User::Own,
            _ => User::Other,
        };
        let number = self.next;
        self.next += 1;
        let sweeper = Process::start(&self.place, &self.events, number, &["sweeper"], user);
        self.pids.insert(number, sweeper.pid());
        self.sweepers.push(sweeper);
    }

    fn start_traveller(&mut self) {
        let number = self.next;
        self.next += 1;
        let mut command = command(&self.place, User::Own);
        command
            .arg("namespaces")
            .env("PORTLEASE_DIR", self.place.locks_elsewhere());
        let traveller = Process::of(command, &self.events, number, User::Own);
        self.pids.insert(number, traveller.pid());
        self.traveller = Some(traveller);
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
        if Ranges::are_own() && now() >= self.change_range_at {
            if self.ledger.ranges.change() {
                self.ledger.count("changes of the ephemeral range");
            }
            self.change_range_at = now() + fastrand::u64(5_000..20_000) * MILLISECOND;
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
            // Every line that the process printed was taken before.
            Event::End => self.ledger.end(number, now()),
        }
    }

    /// Replaces processes that ended by themselves, which is a finding.
    fn replace_ended(&mut self) {
        for at in (0..self.sweepers.len()).rev() {
            if let Some(status) = self.sweepers[at].ended() {
                let sweeper = self.sweepers.swap_remove(at);
                let what = format!("sweeper {} ended by itself: {status}", sweeper.pid());
                self.ledger.find(what);
                self.start_sweeper(sweeper.user);
            }
        }
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

    /// Takes events until the output of this process ends, or for 1 s.
    pub(crate) fn take_all(&mut self, last: usize) {
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
        for worker in self.all() {
            drop(worker.stdin.take());
        }
        let closed = now();
        while now() < closed + END_TIMEOUT && !self.all_ended() {
            if let Some((number, event)) = self.events.next(Duration::from_millis(5)) {
                self.take(number, event);
            }
        }
        let mut stuck = Vec::new();
        for worker in self.all() {
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
        self.sweepers.clear();
        (self.hostile, self.traveller) = (None, None);
        while let Some((number, event)) = self.events.next(Duration::from_millis(100)) {
            self.take(number, event);
        }
        self.ledger.judge();
        let left = leftovers::find(&self.place);
        self.ledger.findings.extend(left);
    }

    /// All but the checker.
    fn all(&mut self) -> impl Iterator<Item = &mut Process> {
        let workers = self.workers.iter_mut().chain(&mut self.sweepers);
        workers.chain(&mut self.hostile).chain(&mut self.traveller)
    }

    fn all_ended(&mut self) -> bool {
        self.all().all(|worker| worker.ended().is_some())
    }
}
