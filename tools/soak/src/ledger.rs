//! Judges what the processes reported and what the checker saw.

use std::collections::{BTreeMap, HashMap};

use crate::clock::SECOND;
use crate::ranges::Ranges;
use crate::usage::{self, Usage};

/// The crate's `Guarantee`, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    BestEffort,
    Cooperative,
    Kernel,
}

impl Level {
    fn parse(text: &str) -> Level {
        match text {
            "kernel" => Level::Kernel,
            "cooperative" => Level::Cooperative,
            _ => Level::BestEffort,
        }
    }
}

/// A port that a process held, until just before it released the port or was killed.
#[derive(Clone, Debug)]
struct Hold {
    /// When the call that reserved the port began.
    begun: u64,
    /// When that call returned.
    from: u64,
    until: u64,
    process: usize,
    pid: u32,
    level: Level,
    leased: bool,
}

const OPEN: u64 = u64::MAX;

/// A time in which the lock folder was deleted or unwritable.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    from: u64,
    until: u64,
}

/// What the checker saw of a port, or a bind of the port by the hostile user.
struct Observation {
    from: u64,
    until: u64,
    port: u16,
    bindable: bool,
    /// The pids of the claims and of the leases; `None` from the hostile user.
    pids: Option<(Vec<String>, Vec<String>)>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    holds: HashMap<(String, u16), Vec<Hold>>,
    open: HashMap<usize, Vec<(String, u16)>>,
    troubles: Vec<Trouble>,
    pub(crate) hostile_from: Option<u64>,
    observations: Vec<Observation>,
    refusals: Vec<(u64, u64, String)>,
    /// What the long-lived processes used.
    pub(crate) usage: HashMap<usize, Usage>,
    pub(crate) ranges: Ranges,
    /// Reports that are findings unless the lock folder was in trouble between their two times.
    doubts: Vec<(u64, u64, String)>,
    /// Rounds by kind: before the second user started, and since.
    pub(crate) rounds: BTreeMap<String, [u64; 2]>,
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) findings: Vec<String>,
}

impl Ledger {
    pub(crate) fn count(&mut self, what: &str) {
        self.count_several(what, 1);
    }

    fn count_several(&mut self, what: &str, several: u64) {
        *self.counts.entry(what.to_owned()).or_default() += several;
    }

    pub(crate) fn find(&mut self, what: String) {
        self.findings.push(what);
    }

    /// Notes that the lock folder was deleted or unwritable during this time.
    pub(crate) fn trouble(&mut self, from: u64, until: u64) {
        self.troubles.push(Trouble { from, until });
    }

    /// Takes one line that a process printed.
    pub(crate) fn take(&mut self, process: usize, pid: u32, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| {
            words
                .get(at)
                .and_then(|word| word.parse::<u64>().ok())
                .unwrap_or(0)
        };
        match words[..] {
            ["held", _, _, protocol, port, level, leased] => {
                let key = (protocol.to_owned(), port.parse().unwrap_or(0));
                let (level, leased) = (Level::parse(level), leased == "true");
                let hold = Hold {
                    begun: number(1),
                    from: number(2),
                    until: OPEN,
                    process,
                    pid,
                    level,
                    leased,
                };
                self.check_grade(&hold, key.1, level, (number(1), number(2)));
                self.holds.entry(key.clone()).or_default().push(hold);
                self.open.entry(process).or_default().push(key);
                self.count("reservations");
                if !leased {
                    self.count("of them without a lease");
                }
            }
            ["ended", _, _, protocol, port, level] => {
                let key = (protocol.to_owned(), port.parse().unwrap_or(0));
                let holds = self.holds.get(&key).into_iter().flatten().rev();
                let hold = holds.take(8).find(|hold| hold.process == process).cloned();
                if let Some(hold) = hold {
                    let level = Level::parse(level);
                    self.check_grade(&hold, key.1, level, (number(1), number(2)));
                    if level < hold.level {
                        self.count("grades that a change of the range lowered");
                    }
                }
                self.close(process, &key, number(2));
                self.open
                    .entry(process)
                    .or_default()
                    .retain(|open| *open != key);
            }
            ["count", several, ..] => {
                self.count_several(&words[2..].join(" "), several.parse().unwrap_or(0));
            }
            ["listed", _, _, _] => {
                self.count("lists of the workers");
                // By now the supervisor has noted everything that it did to the lock folder before.
                if !self.troubled(number(1), number(2)) {
                    self.count_several(
                        "own reservations listed while the lock folder was usable",
                        number(3),
                    );
                }
            }
            ["doubtful", _, _, ..] => {
                if self.troubled(number(1), number(2)) {
                    self.count("wrong lists without a usable lock folder");
                } else {
                    let what = format!("process {pid}: {}", words[3..].join(" "));
                    self.doubts.push((number(1), number(2), what));
                }
            }
            ["wrong", ..] => self.find(format!("process {pid}: {}", words[1..].join(" "))),
            ["round", kind] => {
                let phase = usize::from(self.hostile_from.is_some());
                self.rounds.entry(kind.to_owned()).or_default()[phase] += 1;
            }
            ["refused", _, _, _, _, ..] => {
                self.refusals
                    .push((number(1), number(2), words[3..].join(" ")));
            }
            ["lost", _, _, kind, port, level, ..] => {
                let hostile = self.hostile_from.is_some_and(|from| number(2) >= from);
                let weak = Level::parse(level) < Level::Kernel;
                let port = port.parse().unwrap_or(0);
                if weak && self.may_have_been_assigned(process, port, number(2)) {
                    self.count("rounds lost on ports that a changed range contained");
                // The second user can bind an exact port that the kernel does not keep.
                } else if hostile && weak {
                    self.count(
                        "rounds lost to the second user on ports that the kernel does not keep",
                    );
                } else {
                    self.find(format!(
                        "lost: {kind} {port} ({level}), process {pid}: {}",
                        words[6..].join(" ")
                    ));
                }
            }
            ["idle", _, _, _, descriptors] => {
                let used = (number(1), number(2) as usize, number(3));
                let usage = self.usage.entry(process).or_default();
                // The list of descriptors takes much memory, so it is kept only where their number
                // changed.
                let last = usage.last().map(|(used, _)| used.1);
                let changed = last != Some(used.1);
                usage.push((used, changed.then(|| descriptors.to_owned())));
            }
            ["seen", _, _, port, bindable, claims, leases] => {
                let list = |text: &str| {
                    let text = text.trim_matches(['[', ']']);
                    text.split(',')
                        .filter(|word| !word.is_empty())
                        .map(str::to_owned)
                        .collect()
                };
                self.count("checks from outside");
                self.observations.push(Observation {
                    from: number(1),
                    until: number(2),
                    port: port.parse().unwrap_or(0),
                    bindable: bindable == "true",
                    pids: Some((list(claims), list(leases))),
                });
            }
            ["bound", _, _, port] => {
                let (from, until, port) = (number(1), number(2), port.parse().unwrap_or(0));
                self.observations.push(Observation {
                    from,
                    until,
                    port,
                    bindable: true,
                    pids: None,
                });
            }
            _ => self.find(format!("process {pid} printed {line:?}")),
        }
    }

    fn close(&mut self, process: usize, key: &(String, u16), at: u64) {
        let holds = self.holds.get_mut(key).into_iter().flatten();
        for hold in holds
            .rev()
            .filter(|hold| hold.process == process && hold.until == OPEN)
            .take(1)
        {
            hold.until = at;
        }
    }

    /// Ends what the process still holds, because it was killed or has exited.
    pub(crate) fn end(&mut self, process: usize, at: u64) {
        for key in self.open.remove(&process).unwrap_or_default() {
            self.close(process, &key, at);
        }
    }

    /// Adds a finding if the reservation cannot have had the grade `read` during this time.
    fn check_grade(&mut self, hold: &Hold, port: u16, read: Level, during: (u64, u64)) {
        // Before the call returns, the range alone decides the grade of a port that the kernel does
        // not keep. After that, a grade of `BestEffort` stays.
        let picked = if during.0 < hold.from {
            hold.level.max(Level::Cooperative)
        } else {
            hold.level
        };
        if !self.ranges.allow((picked, read), port, during) {
            let ranges: Vec<_> = self.ranges.during(during.0, during.1).collect();
            let what = format!(
                "port {port} had the grade {read:?} while the range was {ranges:?}: {hold:?}"
            );
            self.find(what);
        }
    }

    /// Whether the kernel may have assigned this port to another socket since the process picked
    /// it.
    fn may_have_been_assigned(&self, process: usize, port: u16, until: u64) -> bool {
        let both = ["tcp", "udp"].map(|protocol| (protocol.to_owned(), port));
        let holds = both.iter().filter_map(|key| self.holds.get(key)).flatten();
        let mut lost = holds.filter(|hold| hold.process == process && hold.until == OPEN);
        lost.any(|hold| self.ranges.may_assign(port, hold.begun, until))
    }

    /// A TCP port that the kernel keeps now, picked at random.
    pub(crate) fn any_kept(&self) -> Option<u16> {
        let mut kept: Vec<u16> = Vec::new();
        for (protocol, port) in self.open.values().flatten() {
            let is_kept = |hold: &Hold| hold.until == OPEN && hold.level == Level::Kernel;
            if protocol == "tcp"
                && self.holds[&(protocol.clone(), *port)]
                    .iter()
                    .rev()
                    .take(8)
                    .any(is_kept)
            {
                kept.push(*port);
            }
        }
        if kept.is_empty() {
            None
        } else {
            Some(kept[fastrand::usize(..kept.len())])
        }
    }

    /// Whether the lock folder was deleted, unwritable or attacked during this time or just before.
    fn troubled(&self, from: u64, until: u64) -> bool {
        let hostile = self.hostile_from.is_some_and(|since| until >= since);
        hostile
            || self
                .troubles
                .iter()
                .rev()
                // The times of trouble are nearly in order, and none lasts 60 s.
                .take_while(|t| t.from.saturating_add(60 * SECOND) >= from)
                .any(|t| t.from <= until && t.until.saturating_add(SECOND) >= from)
    }

    /// Adds the findings of the whole soak. Call it once every process has ended.
    pub(crate) fn judge(&mut self) {
        let mut found = self.shared_ports();
        found.extend(
            self.observations
                .iter()
                .filter_map(|seen| self.contradiction(seen)),
        );
        for (from, until, what) in &self.refusals {
            // An error of the lock folder is right if only the folder keeps such a port, or if
            // another user planted the lock file.
            let is_folder = what.split(' ').nth(1) == Some("Lease") && !what.starts_with("tcp ");
            // The second user can bind the number between its release and the next call.
            let is_attacked = what.starts_with("again ")
                && self.hostile_from.is_some_and(|since| *until >= since);
            if !(is_attacked || is_folder && self.troubled(*from, *until)) {
                found.push(format!(
                    "refused after {} ms: {what}",
                    (until - from) / 1_000_000
                ));
            }
        }
        let refused = self.refusals.len() as u64;
        self.counts.insert("refusals".to_owned(), refused);
        for (from, until, what) in &self.doubts {
            if !self.troubled(*from, *until) {
                found.push(what.clone());
            }
        }
        for (process, usage) in &self.usage {
            found.extend(usage::growth(*process, usage));
        }
        self.findings.extend(found);
    }

    fn shared_ports(&self) -> Vec<String> {
        let mut found = Vec::new();
        for ((protocol, port), holds) in &self.holds {
            let mut holds: Vec<&Hold> = holds.iter().collect();
            holds.sort_by_key(|hold| hold.from);
            for (at, one) in holds.iter().enumerate() {
                for other in holds[at + 1..]
                    .iter()
                    .take_while(|other| other.from < one.until)
                {
                    // Only the lock folder keeps a best-effort port, and the folder may have been
                    // replaced. A port below `Kernel` counts as best-effort once a range contained
                    // it.
                    let is_weak = |hold: &Hold| {
                        hold.level < Level::Kernel
                            && self.ranges.may_assign(*port, hold.begun, other.from)
                    };
                    let weak = is_weak(one)
                        || is_weak(other)
                        || one.level.min(other.level) == Level::BestEffort;
                    if !(weak && self.troubled(one.from, other.from)) {
                        found.push(format!(
                            "two reservations held {port}/{protocol} at once: {one:?} and {other:?}"
                        ));
                    }
                }
            }
        }
        found
    }

    /// A finding if the checker saw what it must not see. It concerns a port that the kernel kept
    /// for one process during the whole check.
    fn contradiction(&self, seen: &Observation) -> Option<String> {
        let holds = self.holds.get(&("tcp".to_owned(), seen.port))?;
        let during =
            |hold: &&Hold| hold.from < seen.from && hold.until > seen.until && hold.until != OPEN;
        let hold = holds
            .iter()
            .filter(|hold| hold.level == Level::Kernel)
            .find(during)?;
        let port = seen.port;
        if seen.bindable {
            return Some(format!("a plain bind of {port} succeeded while {hold:?}"));
        }
        let (claims, leases) = seen.pids.as_ref()?;
        let is_holders = |claim: &String| claim.split('+').any(|pid| pid == hold.pid.to_string());
        if claims.len() != 1 || !claims.iter().all(is_holders) {
            return Some(format!(
                "the claims of {port} were {claims:?} while {hold:?}"
            ));
        }
        let listed = leases.len() == 1 && leases[0] == hold.pid.to_string();
        (hold.leased && !listed && !self.troubled(hold.from, seen.until))
            .then(|| format!("the leases of {port} were {leases:?} while {hold:?}"))
    }
}
