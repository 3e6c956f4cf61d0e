//! The lines that a process prints for the supervisor. [`crate::ledger`] reads them.

use std::io::{self, Write};

use portlease::{Error, Guarantee, Reservation};

use crate::clock::now;

pub(crate) fn print(line: &str) {
    // One write, because a pipe keeps the bytes of one write together. If the write fails, the
    // supervisor has ended, and this process finds its stdin closed.
    let _printed = io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// Adds 1 to the count of `what` in the summary.
pub(crate) fn count(what: &str) {
    print(&format!("count 1 {what}"));
}

/// Reports reservations whose call began at `begun` and has just returned.
pub(crate) fn report_held(begun: u64, reservations: &[Reservation]) {
    for reservation in reservations {
        let (level, leased) = (level(reservation), is_leased(reservation));
        // A time after the grade was read.
        let at = now();
        for protocol in reservation.protocols() {
            print(&format!(
                "held {begun} {at} {protocol} {reservation} {level} {leased}"
            ));
        }
    }
}

/// Reports the end of a reservation before it ends: afterwards another process may have the port.
pub(crate) fn report_ended(reservation: &Reservation) {
    let from = now();
    let level = level(reservation);
    for protocol in reservation.protocols() {
        print(&format!(
            "ended {from} {} {protocol} {reservation} {level}",
            now()
        ));
    }
}

pub(crate) fn report_refused(begun: u64, kind: &str, error: &Error) {
    print(&format!(
        "refused {begun} {} {kind} {:?} {}",
        now(),
        error.kind(),
        error.to_string().replace('\n', "; ")
    ));
}

/// Reports what is wrong unless the lock folder was deleted, unwritable or attacked meanwhile.
pub(crate) fn report_doubt(from: u64, what: &str) {
    print(&format!(
        "doubtful {from} {} {}",
        now(),
        what.replace('\n', "; ")
    ));
}

pub(crate) fn level(reservation: &Reservation) -> &'static str {
    match reservation.guarantee() {
        Guarantee::Kernel => "kernel",
        Guarantee::Cooperative => "cooperative",
        _ => "best_effort",
    }
}

pub(crate) fn is_leased(reservation: &Reservation) -> bool {
    format!("{reservation:?}").contains("leased: true")
}
