//! Forked children, which share the sockets of their parent until they call exec.

pub(crate) mod bind;
pub(crate) mod leak;
pub(crate) mod release;
pub(crate) mod slow_exec;
pub(crate) mod without_exec;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Dropping this value ends the threads that spawn children, also after a failed check.
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
