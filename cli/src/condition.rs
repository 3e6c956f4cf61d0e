//! [`Condition`]: what `check` asserts of a port, and what `wait` waits for.

use std::time::Duration;

use portlease::{
    Diagnosis, Endpoint, check_port_free, check_port_held_by, check_port_listening,
    wait_until_free, wait_until_held_by, wait_until_listening,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Free,
    Listening,
    /// The process with this id listens on the port, or a process that it started.
    HeldBy(u32),
}

impl Condition {
    /// `Listening` with the flag `--listening`, otherwise `Free`.
    pub(crate) fn from_flag(listening: bool) -> Self {
        if listening {
            Condition::Listening
        } else {
            Condition::Free
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Condition::Free => "free",
            Condition::Listening | Condition::HeldBy(_) => "listening",
        }
    }

    pub(crate) fn check(self, endpoint: Endpoint) -> Result<(), Diagnosis> {
        match self {
            Condition::Free => check_port_free(endpoint),
            Condition::Listening => check_port_listening(endpoint),
            Condition::HeldBy(pid) => check_port_held_by(endpoint, pid),
        }
    }

    pub(crate) fn wait(self, endpoint: Endpoint, limit: Duration) -> portlease::Result<()> {
        match self {
            Condition::Free => wait_until_free(endpoint, limit),
            Condition::Listening => wait_until_listening(endpoint, limit),
            Condition::HeldBy(pid) => wait_until_held_by(endpoint, pid, limit),
        }
    }
}
