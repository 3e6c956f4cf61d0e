//! [`LeakCheck`] reports a server that still listens when its reservation is dropped.

use std::fmt;
use std::io::{self, Write};

use crate::model::diagnosis::Diagnosis;
use crate::model::port::Port;
use crate::process_id::ProcessId;

/// What to do if this process or a descendant still listens on the port of a dropped reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLeak {
    Warn,
    Panic,
}

/// Searches for a listener of this process, or of a descendant, on the port. The function comes
/// from the module `inspect`, which is on a higher floor (see `CONTRIBUTING.md`). This module must
/// not import `inspect`, so it gets the function as a value.
pub(crate) type FindLeak = fn(Port) -> Option<Diagnosis>;

/// Checks the ports of a reservation when the reservation is dropped.
pub(crate) struct LeakCheck {
    action: OnLeak,
    find: FindLeak,
    ports: Vec<Port>,
    /// The process that made the reservation. If a forked child drops its copy of the reservation,
    /// nothing is checked, because the parent may still use the port.
    process: ProcessId,
}

impl LeakCheck {
    pub(crate) fn new(action: OnLeak, find: FindLeak, ports: Vec<Port>) -> LeakCheck {
        LeakCheck {
            action,
            find,
            ports,
            process: ProcessId::current(),
        }
    }

    pub(super) fn disarm(&mut self) {
        self.ports.clear();
    }
}

impl Drop for LeakCheck {
    fn drop(&mut self) {
        if ProcessId::current() != self.process {
            return;
        }
        let Some(leak) = self.ports.iter().find_map(|port| (self.find)(*port)) else {
            return;
        };
        // A second panic would abort the process and hide the first, which says why the test
        // failed.
        if self.action == OnLeak::Panic && !std::thread::panicking() {
            panic!("{leak}");
        }
        // Writes to stderr directly, because libtest captures the output of `eprintln!`, and shows
        // it only if the test fails.
        let _printed = io::stderr().write_all(format!("portlease: {leak}\n").as_bytes());
    }
}

impl fmt::Debug for LeakCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.action.fmt(f)
    }
}
