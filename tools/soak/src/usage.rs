//! What the long-lived processes used: they must not leak.

use std::collections::HashMap;

/// The time, the number of descriptors, and the resident memory in KiB.
pub(crate) type Used = (u64, usize, u64);

/// What one process used at each report. The descriptors are listed where their number changed.
pub(crate) type Usage = Vec<(Used, Option<String>)>;

/// Of each long-lived process, what it used early and last, for the summary.
pub(crate) fn early_and_last(all: &HashMap<usize, Usage>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for usage in all.values() {
        if let (Some((first, _)), Some((last, _))) = (usage.get(usage.len() / 4), usage.last()) {
            lines.push(format!(
                "{} then {} descriptors, {} then {} KiB",
                first.1, last.1, first.2, last.2
            ));
        }
    }
    lines
}

/// A finding if the process used more in its last quarter than in its second: it leaks.
pub(crate) fn growth(process: usize, usage: &Usage) -> Vec<String> {
    const SLACK_KIB: u64 = 1024;
    const ENOUGH: usize = 12;
    let quarter = usage.len() / 4;
    if usage.len() < ENOUGH {
        return vec![format!(
            "process {process} was idle only {} times",
            usage.len()
        )];
    }
    let (second, last) = (&usage[quarter..2 * quarter], &usage[3 * quarter..]);
    let descriptors =
        |part: &[(Used, Option<String>)]| part.iter().map(|(used, _)| used.1).max().unwrap_or(0);
    let resident = |part: &[(Used, Option<String>)]| {
        let mut all: Vec<u64> = part.iter().map(|(used, _)| used.2).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let mut found = Vec::new();
    if descriptors(last) > descriptors(second) {
        found.push(format!(
            "process {process}: {} descriptors, then {}",
            descriptors(second),
            descriptors(last)
        ));
        let most = descriptors(last);
        let texts = usage.iter().rev().filter(|(used, _)| used.1 == most);
        found.extend(texts.filter_map(|(_, text)| text.clone()).take(1));
    }
    if resident(last) > resident(second) + SLACK_KIB {
        found.push(format!(
            "process {process}: {} KiB, then {}",
            resident(second),
            resident(last)
        ));
    }
    found
}
