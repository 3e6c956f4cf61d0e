//! Forked children: one shares the sockets of its parent until it calls exec.

pub(crate) mod bind;
pub(crate) mod leak;
pub(crate) mod release;
pub(crate) mod slow_exec;
pub(crate) mod without_exec;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends the threads that spawn when it is dropped, also by a failed check.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts threads that spawn children without a pause, until the returned value is dropped.
fn spawn_children<'scope, 'env>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    stopped: &'scope AtomicBool,
) -> StopOnDrop<'scope> {
    for _ in 0..3 {
        scope.spawn(|| {
            while !stopped.load(Ordering::Relaxed) {
                assert!(Command::new("true").status().unwrap().success());
            }
        });
    }
    StopOnDrop(stopped)
}
