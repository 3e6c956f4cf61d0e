//! What the processes said and the checker saw, judged.

use std::collections::{BTreeMap, HashMap};

use crate::clock::SECOND;

/// Who keeps a promise, the weakest first: what the crate calls `Guarantee`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    BestEffort,
    Cooperative,
    Kernel,
}

impl Grade {
    fn parse(text: &str) -> Grade {
        match text {
            "kernel" => Grade::Kernel,
            "cooperative" => Grade::Cooperative,
            _ => Grade::BestEffort,
        }
    }
}

/// A number held, from when the process had it to just before it let go, or was killed.
#[derive(Clone, Debug)]
struct Hold {
    from: u64,
    until: u64,
    member: usize,
    pid: u32,
    grade: Grade,
    leased: bool,
}

const OPEN: u64 = u64::MAX;

/// A time in which the lock folder, or more, was not what it should be.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    from: u64,
    until: u64,
}

/// What the checker saw of a port, or that a stranger could bind it.
struct Look {
    from: u64,
    until: u64,
    port: u16,
    admitted: bool,
    /// The claims' processes, and those of the leases, where the checker asked for them.
    seen: Option<(Vec<String>, Vec<String>)>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    holds: HashMap<(String, u16), Vec<Hold>>,
    open: HashMap<usize, Vec<(String, u16)>>,
    troubles: Vec<Trouble>,
    pub(crate) hostile_from: Option<u64>,
    looks: Vec<Look>,
    refusals: Vec<(u64, u64, String)>,
    /// What elders used: when, descriptors, KiB.
    usage: HashMap<usize, Vec<(u64, usize, u64)>>,
    /// Rounds by kind: before the second user came, and with it.
    pub(crate) rounds: BTreeMap<String, [u64; 2]>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) findings: Vec<String>,
}

impl Ledger {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn find(&mut self, what: String) {
        self.findings.push(what);
    }

    /// From then on the lock folder is in trouble, for so long.
    pub(crate) fn trouble(&mut self, from: u64, until: u64) {
        self.troubles.push(Trouble { from, until });
    }

    pub(crate) fn hear(&mut self, member: usize, pid: u32, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| {
            words
                .get(at)
                .and_then(|word| word.parse::<u64>().ok())
                .unwrap_or(0)
        };
        match words[..] {
            ["held", _, protocol, port, grade, leased] => {
                let key = (protocol.to_owned(), port.parse().unwrap_or(0));
                let (grade, leased) = (Grade::parse(grade), leased == "true");
                let hold = Hold {
                    from: number(1),
                    until: OPEN,
                    member,
                    pid,
                    grade,
                    leased,
                };
                self.holds.entry(key.clone()).or_default().push(hold);
                self.open.entry(member).or_default().push(key);
                self.count("reservations");
                if !leased {
                    self.count("of them without a lease");
                }
            }
            ["ended", _, protocol, port] => {
                let key = (protocol.to_owned(), port.parse().unwrap_or(0));
                self.close(member, &key, number(1));
                self.open
                    .entry(member)
                    .or_default()
                    .retain(|open| *open != key);
            }
            ["round", kind] => {
                let phase = usize::from(self.hostile_from.is_some());
                self.rounds.entry(kind.to_owned()).or_default()[phase] += 1;
            }
            ["refused", _, _, _, _, ..] => {
                self.refusals
                    .push((number(1), number(2), words[3..].join(" ")));
            }
            ["lost", _, _, kind, port, grade, ..] => {
                let strangers = self.hostile_from.is_some_and(|from| number(2) >= from);
                // A stranger who names a number gets one that the kernel does not keep.
                if strangers && Grade::parse(grade) < Grade::Kernel {
                    self.count("rounds lost to the second user, of what the kernel does not keep");
                } else {
                    self.find(format!(
                        "lost: {kind} {port} ({grade}), process {pid}: {}",
                        words[6..].join(" ")
                    ));
                }
            }
            ["idle", ..] => {
                let used = (number(1), number(2) as usize, number(3));
                self.usage.entry(member).or_default().push(used);
            }
            ["look", _, _, port, admitted, claims, lessees] => {
                let list = |text: &str| {
                    let text = text.trim_matches(['[', ']']);
                    text.split(',')
                        .filter(|word| !word.is_empty())
                        .map(str::to_owned)
                        .collect()
                };
                self.count("looks from outside");
                self.looks.push(Look {
                    from: number(1),
                    until: number(2),
                    port: port.parse().unwrap_or(0),
                    admitted: admitted == "true",
                    seen: Some((list(claims), list(lessees))),
                });
            }
            ["bound", _, _, port] => {
                let (from, until, port) = (number(1), number(2), port.parse().unwrap_or(0));
                self.looks.push(Look {
                    from,
                    until,
                    port,
                    admitted: true,
                    seen: None,
                });
            }
            _ => self.find(format!("process {pid} said {line:?}")),
        }
    }

    fn close(&mut self, member: usize, key: &(String, u16), at: u64) {
        let holds = self.holds.get_mut(key).into_iter().flatten();
        for hold in holds
            .rev()
            .filter(|hold| hold.member == member && hold.until == OPEN)
            .take(1)
        {
            hold.until = at;
        }
    }

    /// What the process still holds ends here, because it was killed then or is gone.
    pub(crate) fn end(&mut self, member: usize, at: u64) {
        for key in self.open.remove(&member).unwrap_or_default() {
            self.close(member, &key, at);
        }
    }

    /// A TCP number that the kernel keeps now.
    pub(crate) fn any_kept(&self) -> Option<u16> {
        let mut kept: Vec<u16> = Vec::new();
        for (protocol, port) in self.open.values().flatten() {
            let is_kept = |hold: &Hold| hold.until == OPEN && hold.grade == Grade::Kernel;
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

    /// Whether the folder was in trouble at any time in between, or just before.
    fn troubled(&self, from: u64, until: u64) -> bool {
        let hostile = self.hostile_from.is_some_and(|since| until >= since);
        hostile
            || self
                .troubles
                .iter()
                .any(|t| t.from <= until && t.until.saturating_add(SECOND) >= from)
    }

    /// When all is said.
    pub(crate) fn judge(&mut self) {
        let mut found = self.two_of_one_number();
        found.extend(
            self.looks
                .iter()
                .filter_map(|look| self.contradiction(look)),
        );
        for (from, until, what) in &self.refusals {
            // Where nothing but the folder keeps a number, or where what lies there is another's, it is refused.
            let is_folder = what.split(' ').nth(1) == Some("Lease") && !what.starts_with("tcp ");
            if !(is_folder && self.troubled(*from, *until)) {
                found.push(format!(
                    "refused after {} ms: {what}",
                    (until - from) / 1_000_000
                ));
            }
        }
        let refused = self.refusals.len() as u64;
        self.counts
            .insert("refusals, for want of a lock folder", refused);
        for (member, usage) in &self.usage {
            found.extend(growth(*member, usage));
        }
        self.findings.extend(found);
    }

    fn two_of_one_number(&self) -> Vec<String> {
        let mut found = Vec::new();
        for ((protocol, port), holds) in &self.holds {
            let mut holds: Vec<&Hold> = holds.iter().collect();
            holds.sort_by_key(|hold| hold.from);
            for (at, one) in holds.iter().enumerate() {
                for other in holds[at + 1..]
                    .iter()
                    .take_while(|other| other.from < one.until)
                {
                    // Best effort is kept by the folder alone, and that may have been another one since.
                    let weak = one.grade.min(other.grade) == Grade::BestEffort;
                    if !(weak && self.troubled(one.from, other.from)) {
                        found.push(format!(
                            "two had {port}/{protocol} at once: {one:?} and {other:?}"
                        ));
                    }
                }
            }
        }
        found
    }

    /// What was seen of a number that somebody had all the while, and that must not be.
    fn contradiction(&self, look: &Look) -> Option<String> {
        let holds = self.holds.get(&("tcp".to_owned(), look.port))?;
        let during =
            |hold: &&Hold| hold.from < look.from && hold.until > look.until && hold.until != OPEN;
        let hold = holds
            .iter()
            .filter(|hold| hold.grade == Grade::Kernel)
            .find(during)?;
        let port = look.port;
        if look.admitted {
            return Some(format!(
                "a plain bind of {port} was admitted while {hold:?}"
            ));
        }
        let (claims, lessees) = look.seen.as_ref()?;
        let is_holders = |claim: &String| claim.split('+').any(|pid| pid == hold.pid.to_string());
        if claims.len() != 1 || !claims.iter().all(is_holders) {
            return Some(format!(
                "the claims of {port} were {claims:?} while {hold:?}"
            ));
        }
        let told = lessees.len() == 1 && lessees[0] == hold.pid.to_string();
        (hold.leased && !told && !self.troubled(hold.from, look.until))
            .then(|| format!("the leases of {port} were {lessees:?} while {hold:?}"))
    }

    /// What the elders used, for the summary: the first and the last that each told.
    pub(crate) fn usage(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for usage in self.usage.values() {
            if let (Some(first), Some(last)) = (usage.get(usage.len() / 4), usage.last()) {
                lines.push(format!(
                    "{} then {} descriptors, {} then {} KiB",
                    first.1, last.1, first.2, last.2
                ));
            }
        }
        lines
    }
}

/// A process that uses more in its last quarter than it did in its second one: it leaks.
fn growth(member: usize, usage: &[(u64, usize, u64)]) -> Vec<String> {
    const SLACK_KIB: u64 = 1024;
    const ENOUGH: usize = 12;
    let quarter = usage.len() / 4;
    if usage.len() < ENOUGH {
        return vec![format!(
            "process {member} came to rest {} times only",
            usage.len()
        )];
    }
    let (second, last) = (&usage[quarter..2 * quarter], &usage[3 * quarter..]);
    let descriptors =
        |part: &[(u64, usize, u64)]| part.iter().map(|used| used.1).max().unwrap_or(0);
    let resident = |part: &[(u64, usize, u64)]| {
        let mut all: Vec<u64> = part.iter().map(|used| used.2).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let mut found = Vec::new();
    if descriptors(last) > descriptors(second) {
        found.push(format!(
            "process {member}: {} descriptors, then {}",
            descriptors(second),
            descriptors(last)
        ));
    }
    if resident(last) > resident(second) + SLACK_KIB {
        found.push(format!(
            "process {member}: {} KiB, then {}",
            resident(second),
            resident(last)
        ));
    }
    found
}
