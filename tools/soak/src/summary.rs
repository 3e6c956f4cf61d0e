//! The summary at the end of a soak.

use std::collections::BTreeMap;
use std::process::ExitCode;

use crate::clock::SECOND;
use crate::ranges::Ranges;
use crate::supervisor::Soak;
use crate::usage::early_and_last;

/// What must have happened at least once, by its name in the summary.
fn required(took: u64) -> Vec<&'static str> {
    let mut required = vec![
        "children that slept before they called exec",
        "children that never called exec",
        "numbers reserved again after a forked child had released them",
        "lists of the sweepers",
        "lists of the workers",
        "own reservations listed while the lock folder was usable",
    ];
    if Ranges::are_own() {
        required.push("changes of the ephemeral range");
        required.push("network namespaces entered");
        required.push("checks of network namespaces");
    }
    // Grades fall only when the range becomes wide. The second change is the first to a wide range.
    // It comes within 22 s.
    if Ranges::are_own() && took >= 45 * SECOND {
        required.push("grades that a change of the range lowered");
    }
    required
}

/// The beginning of a finding's text, without numbers.
fn kind_of(finding: &str) -> String {
    const LENGTH: usize = 32;
    let text = finding.chars().filter(|letter| !letter.is_ascii_digit());
    text.take(LENGTH).collect()
}

impl Soak {
    /// Prints the summary.
    pub(crate) fn summarize(self, took: u64) -> ExitCode {
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
        for line in early_and_last(&ledger.usage)
            .iter()
            .chain(&self.hostile_counts)
        {
            println!("  {line}");
        }
        let mut findings = ledger.findings.clone();
        let phases = if ledger.hostile_from.is_some() { 2 } else { 1 };
        for kind in ["tcp", "udp", "pair", "block", "exact", "plain"] {
            let rounds = ledger.rounds.get(kind).copied().unwrap_or_default();
            if rounds[..phases].contains(&0) {
                findings.push(format!(
                    "no round of the kind {kind} was served: {rounds:?}"
                ));
            }
        }
        for kind in required(took) {
            if !ledger.counts.contains_key(kind) {
                findings.push(format!("never happened: {kind}"));
            }
        }
        // Many findings of one kind must not hide those of another.
        const SHOWN: usize = 8;
        let mut shown: BTreeMap<String, usize> = BTreeMap::new();
        for finding in &findings {
            let of_kind = shown.entry(kind_of(finding)).or_default();
            *of_kind += 1;
            if *of_kind <= SHOWN {
                println!("FOUND: {finding}");
            }
        }
        println!("soak: {} findings", findings.len());
        if findings.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
