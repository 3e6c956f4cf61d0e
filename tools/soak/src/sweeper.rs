//! Lists of reservations. Each list reads every lock file, and deletes those that no process uses.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portlease::Reservation;

use crate::clock::{MILLISECOND, now};
use crate::report::{print, report_doubt};

/// Runs a process that lists the reservations without a pause, until its input is closed.
pub(crate) fn list_always() {
    const REPORT_EVERY: u64 = 200 * MILLISECOND;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _line = std::io::stdin().read_line(&mut String::new());
            done.store(true, Ordering::Relaxed);
        });
        let (mut calls, mut reported) = (0u32, now());
        while !done.load(Ordering::Relaxed) {
            let from = now();
            if let Err(e) = portlease::reservations() {
                report_doubt(from, &format!("a sweeper's list failed: {e}"));
                // A list that fails ends early. Without a pause, its reports would flood the
                // supervisor.
                std::thread::sleep(Duration::from_millis(1));
            }
            calls += 1;
            if now() > reported + REPORT_EVERY {
                print(&format!("count {calls} lists of the sweepers"));
                (calls, reported) = (0, now());
            }
        }
    });
}

/// Checks that a list of all reservations contains those of this process in `own`. Each is given
/// with the time since when it is held.
pub(crate) fn check_listed<'a>(own: impl Iterator<Item = (u64, &'a Reservation)>) {
    let own: Vec<(u64, &Reservation)> = own.collect();
    let Some(oldest) = own.iter().map(|(since, _)| *since).min() else {
        return;
    };
    let listed = match portlease::reservations() {
        Ok(listed) => listed,
        Err(e) => return report_doubt(oldest, &format!("a worker's list failed: {e}")),
    };
    let pid = Some(std::process::id());
    for (since, reservation) in &own {
        for protocol in reservation.protocols() {
            let is_listed = listed.iter().any(|lease| {
                (lease.port(), lease.protocol(), lease.pid())
                    == (reservation.port(), *protocol, pid)
            });
            if !is_listed {
                let missing = format!("not listed for its holder: {reservation}/{protocol}");
                report_doubt(*since, &missing);
            }
        }
    }
    print(&format!("listed {oldest} {} {}", now(), own.len()));
}
