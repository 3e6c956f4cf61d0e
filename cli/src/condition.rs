//! [`Condition`]: what `check` asserts of a port, and what `wait` waits for.

use std::time::Duration;

use portlease::{
    Diagnosis, Endpoint, ServerKind, check_each_port_free_for, check_port_free_for,
    check_port_held_by, check_port_listening, wait_until_free_for, wait_until_held_by,
    wait_until_listening,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// A server of this kind could bind the port.
    Free(ServerKind),
    Listening,
    /// The process with this id, or one that it started, listens on the port.
    HeldBy(u32),
}

impl Condition {
    /// The condition that `--listening` and `--no-reuse-addr` select.
    pub(crate) fn of(listening: bool, no_reuse_addr: bool) -> Self {
        match (listening, no_reuse_addr) {
            (true, _) => Condition::Listening,
            (false, true) => Condition::Free(ServerKind::Plain),
            (false, false) => Condition::Free(ServerKind::ReuseAddr),
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Condition::Free(_) => "free",
            Condition::Listening | Condition::HeldBy(_) => "listening",
        }
    }

    pub(crate) fn check(self, endpoint: Endpoint) -> Result<(), Diagnosis> {
        match self {
            Condition::Free(kind) => check_port_free_for(endpoint, kind),
            Condition::Listening => check_port_listening(endpoint),
            Condition::HeldBy(pid) => check_port_held_by(endpoint, pid),
        }
    }

    /// Checks all these ports. The result is what [`check`](Self::check) reports for each.
    ///
    /// The checks for a free port share one retry limit. If no owner is visible, each check by
    /// itself retries for 100 ms.
    pub(crate) fn check_all(
        self,
        endpoints: impl IntoIterator<Item = Endpoint>,
    ) -> Vec<Result<(), Diagnosis>> {
        match self {
            Condition::Free(kind) => check_each_port_free_for(endpoints, kind),
            _ => endpoints
                .into_iter()
                .map(|endpoint| self.check(endpoint))
                .collect(),
        }
    }

    pub(crate) fn wait(self, endpoint: Endpoint, limit: Duration) -> portlease::Result<()> {
        match self {
            Condition::Free(kind) => wait_until_free_for(endpoint, kind, limit),
            Condition::Listening => wait_until_listening(endpoint, limit),
            Condition::HeldBy(pid) => wait_until_held_by(endpoint, pid, limit),
        }
    }
}
