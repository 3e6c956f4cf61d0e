//! Starts the processes, harms them and their folder by chance, and says what came of it.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::Signal;

use crate::clock::{MILLISECOND, SECOND, now};
use crate::crew::{Ears, Heard, Member, User};
use crate::ledger::Ledger;
use crate::place::{Place, is_alone, is_root, set_mode};
use crate::remains;
use crate::worker::ELDERS;

const WORKERS: usize = 8;

/// How long a process may take to let go of everything once it is told to.
const PATIENCE: u64 = 90 * SECOND;

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
            soak.let_the_hostile_in();
        }
        soak.step();
    }
    soak.end();
    soak.tell(now() - begun)
}

struct Soak {
    place: Place,
    ears: Ears,
    crew: Vec<Member>,
    checker: Member,
    hostile: Option<Member>,
    /// Of every process that ever was.
    pids: HashMap<usize, u32>,
    next: usize,
    ledger: Ledger,
    /// Whether the checker was asked and has not answered.
    asked: bool,
    harm_at: u64,
    stopped: Option<(usize, u64)>,
    closed: Option<(Vec<PathBuf>, u64)>,
    last_words: Vec<String>,
}

impl Soak {
    fn new() -> Soak {
        let (place, ears) = (Place::new(), Ears::new());
        let checker = Member::start(&place, &ears, usize::MAX, &["checker"], User::Own);
        let mut soak = Soak {
            place,
            ears,
            crew: Vec::new(),
            checker,
            hostile: None,
            pids: HashMap::new(),
            next: 0,
            ledger: Ledger::default(),
            asked: false,
            harm_at: now() + SECOND,
            stopped: None,
            closed: None,
            last_words: Vec::new(),
        };
        (0..WORKERS).for_each(|_| soak.start_worker());
        soak
    }

    fn start_worker(&mut self) {
        let number = self.next;
        self.next += 1;
        let role = ["worker", &number.to_string()];
        let member = Member::start(&self.place, &self.ears, number, &role, User::Nobody);
        self.pids.insert(number, member.pid());
        self.crew.push(member);
    }

    fn let_the_hostile_in(&mut self) {
        let number = self.next;
        self.next += 1;
        let member = Member::start(&self.place, &self.ears, number, &["hostile"], User::Hostile);
        self.pids.insert(number, member.pid());
        self.hostile = Some(member);
        self.ledger.hostile_from = Some(now());
    }

    /// Some milliseconds of it.
    fn step(&mut self) {
        if let Some((number, heard)) = self.ears.hear(Duration::from_millis(2)) {
            self.take(number, heard);
            // What has come in meanwhile, but not for ever.
            for _ in 0..256 {
                let Some((number, heard)) = self.ears.hear(Duration::ZERO) else {
                    break;
                };
                self.take(number, heard);
            }
        }
        if !self.asked
            && let Some(port) = self.ledger.any_kept()
            && let Some(stdin) = &mut self.checker.stdin
        {
            self.asked = writeln!(stdin, "{port}").is_ok();
        }
        self.undo(now());
        if now() >= self.harm_at {
            self.harm();
            self.harm_at = now() + fastrand::u64(40..400) * MILLISECOND;
        }
        self.bury();
    }

    fn take(&mut self, number: usize, heard: Heard) {
        let pid = self.pids.get(&number).copied().unwrap_or(0);
        match heard {
            Heard::Line(line) if line.starts_with("did ") => self.last_words.push(line),
            Heard::Line(line) => {
                self.asked &= !line.starts_with("look ");
                self.ledger.hear(number, pid, &line);
            }
            // Whatever it said before it was killed was heard before.
            Heard::End => self.ledger.end(number, now()),
        }
    }

    /// One act of harm, by chance.
    fn harm(&mut self) {
        match fastrand::u8(..100) {
            0..30 => {
                let Some(at) = self.young() else { return };
                let mut member = self.crew.swap_remove(at);
                if self
                    .stopped
                    .is_some_and(|(number, _)| number == member.number)
                {
                    self.stopped = None;
                }
                // Its promises end before it does, and what it says until then is still heard.
                let at = now();
                member.kill();
                self.hear_out(member.number);
                self.ledger.end(member.number, at);
                self.ledger.count("kill -9");
                self.start_worker();
            }
            30..60 if self.stopped.is_none() => {
                let member = &self.crew[fastrand::usize(..self.crew.len())];
                member.signal(Signal::STOP);
                self.stopped = Some((member.number, now() + fastrand::u64(1..200) * MILLISECOND));
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
                // Longer than it is meant to be, on a busy machine: until it is undone.
                self.ledger.trouble(now(), now() + length + SECOND);
                folders.iter().for_each(|path| set_mode(path, 0o555));
                self.closed = Some((folders, now() + length));
                self.ledger.count("lock folder made unwritable");
            }
            _ => {}
        }
    }

    /// One that may be killed.
    fn young(&self) -> Option<usize> {
        let young: Vec<usize> = (0..self.crew.len())
            .filter(|at| self.crew[*at].number >= ELDERS)
            .collect();
        if young.is_empty() {
            None
        } else {
            Some(young[fastrand::usize(..young.len())])
        }
    }

    fn undo(&mut self, over: u64) {
        if let Some((number, _)) = self.stopped.take_if(|(_, until)| *until <= over)
            && let Some(member) = self.crew.iter().find(|member| member.number == number)
        {
            member.signal(Signal::CONT);
        }
        if let Some((folders, until)) = self.closed.take_if(|(_, until)| *until <= over) {
            folders
                .iter()
                .filter(|path| is_folder(path))
                .for_each(|path| set_mode(path, 0o1777));
            self.ledger.trouble(until.min(over), now());
        }
    }

    /// Nobody ends unless told to.
    fn bury(&mut self) {
        for at in (0..self.crew.len()).rev() {
            if let Some(status) = self.crew[at].ended() {
                let member = self.crew.swap_remove(at);
                self.ledger.find(format!(
                    "process {} ended by itself: {status}",
                    member.pid()
                ));
                self.start_worker();
            }
        }
    }

    /// Hears until this one's output ends.
    fn hear_out(&mut self, last: usize) {
        let until = now() + SECOND;
        while now() < until {
            match self.ears.hear(Duration::from_millis(10)) {
                Some((number, Heard::End)) if number == last => return,
                Some((number, heard)) => self.take(number, heard),
                None => {}
            }
        }
    }

    fn end(&mut self) {
        self.undo(u64::MAX);
        drop(self.checker.stdin.take());
        for member in self.hostile.iter_mut().chain(&mut self.crew) {
            drop(member.stdin.take());
        }
        let told = now();
        while now() < told + PATIENCE && !self.all_ended() {
            if let Some((number, heard)) = self.ears.hear(Duration::from_millis(5)) {
                self.take(number, heard);
            }
        }
        let mut stuck = Vec::new();
        for member in self.hostile.iter_mut().chain(&mut self.crew) {
            match member.ended() {
                Some(status) if status.success() => {}
                status => stuck.push(format!(
                    "process {} did not end well: {status:?}",
                    member.pid()
                )),
            }
        }
        self.ledger.findings.extend(stuck);
        println!(
            "soak: all ended {} ms after they were told to",
            (now() - told) / MILLISECOND
        );
        self.crew.clear();
        self.hostile = None;
        while let Some((number, heard)) = self.ears.hear(Duration::from_millis(100)) {
            self.take(number, heard);
        }
        self.ledger.judge();
        let left = remains::of(&self.place);
        self.ledger.findings.extend(left);
    }

    fn all_ended(&mut self) -> bool {
        self.hostile
            .iter_mut()
            .chain(&mut self.crew)
            .all(|member| member.ended().is_some())
    }

    /// The summary.
    fn tell(self, took: u64) -> ExitCode {
        let ledger = &self.ledger;
        println!("after {} s, {} processes in all:", took / SECOND, self.next);
        for (what, count) in &ledger.counts {
            println!("  {count:>9}  {what}");
        }
        let told: Vec<String> = ledger
            .rounds
            .iter()
            .map(|(kind, [a, b])| format!("{kind} {a} + {b}"))
            .collect();
        println!(
            "  rounds served, before the second user and beside it: {}",
            told.join(", ")
        );
        for line in ledger.usage().iter().chain(&self.last_words) {
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
    // Not through a link, which would be the second user's.
    std::fs::symlink_metadata(path).is_ok_and(|about| about.is_dir())
}

/// What others make in it meanwhile keeps it from going at once.
fn remove(path: &std::path::Path) {
    for _ in 0..50 {
        let removed = std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path));
        if removed.is_ok() || std::fs::symlink_metadata(path).is_err() {
            return;
        }
    }
}
