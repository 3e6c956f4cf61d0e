//! Finds a listener that this process, or a descendant, left on a port.

use std::io;

use super::diagnose;
use crate::model::diagnosis::Diagnosis;
use crate::model::diagnosis::verdict::Verdict;
use crate::model::port::Port;
use crate::model::process::Process;
use crate::ownership::{Asker, is_descendant};
use crate::residual;
use crate::retry::RetryBudget;
use crate::sockets::{self, ScanDepth};

/// Returns a report if this process or one of its descendants listens on the port. Returns `None`
/// if none of them does, or if the sockets or their owners cannot be read.
///
/// A listener that was closed a moment ago can still be open in a forked child. The call retries
/// while only such children have the listener, for about 2 s at most.
pub(crate) fn find(port: Port) -> Option<Diagnosis> {
    let mut budget = RetryBudget::new();
    loop {
        let owners = owners_in_this_tree(port).unwrap_or_default();
        if owners.is_empty() {
            return None;
        }
        if !budget.pause(|| residual::owner_among(&owners)) {
            let verdict = Verdict::Leaked;
            return Some(diagnose::report_to(Asker::Process, port, verdict));
        }
    }
}

fn owners_in_this_tree(port: Port) -> io::Result<Vec<Process>> {
    let rows = sockets::listening(port.number, port.protocol)?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let holders = sockets::owners(rows, ScanDepth::Complete)?.holders;
    let own_pid = std::process::id();
    let mut owners: Vec<Process> = holders.into_iter().flat_map(|one| one.processes).collect();
    owners.retain(|process| is_descendant(process.pid, own_pid));
    Ok(owners)
}
