//! [`Condition`]: what `check` asserts of a port, and what `wait` waits for.

use std::time::Duration;

use portlease::{
    Diagnosis, Endpoint, ServerKind, check_each_port_free_for, check_each_port_held_by,
    check_each_port_listening, wait_until_all_held_by, wait_until_free_for, wait_until_held_by,
    wait_until_listening,
};

use crate::output::remedy::Asked;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The port is free for a server of this kind.
    Free(ServerKind),
    Listening,
    /// The process with this id, or a process that it started, listens on the port.
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

    /// The facts that select the help lines in the report of a check. `waited` says whether the
    /// check follows a wait.
    pub(crate) fn asked(self, waited: bool) -> Asked {
        Asked {
            waited,
            no_reuse_addr: self == Condition::Free(ServerKind::Plain),
            reserves: false,
            lacks_leaks: false,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Condition::Free(_) => "free",
            Condition::Listening | Condition::HeldBy(_) => "listening",
        }
    }

    /// Checks each of these ports. A check for a free port retries for up to `at_most`, but never
    /// longer than the library retries by default.
    pub(crate) fn check(
        self,
        endpoints: &[Endpoint],
        at_most: Duration,
    ) -> Vec<Result<(), Diagnosis>> {
        match self {
            Condition::Free(kind) => check_each_port_free_for(endpoints, kind, at_most),
            Condition::Listening => check_each_port_listening(endpoints),
            Condition::HeldBy(pid) => check_each_port_held_by(endpoints, pid),
        }
    }

    pub(crate) fn wait(self, endpoint: Endpoint, limit: Duration) -> portlease::Result<()> {
        match self {
            Condition::Free(kind) => wait_until_free_for(endpoint, kind, limit),
            Condition::Listening => wait_until_listening(endpoint, limit),
            Condition::HeldBy(pid) => wait_until_held_by(endpoint, pid, limit),
        }
    }

    /// Waits for the port at `index`. Exception: with [`Condition::HeldBy`], waits for all
    /// `endpoints`, the port at `index` first.
    ///
    /// The reason for the exception: the server may use a wrong port. So the report of a failed
    /// [`Condition::HeldBy`] names the listeners of the process on ports outside of the wait. A
    /// wait for one port would report the listeners on the other `endpoints` as wrong.
    pub(crate) fn wait_among(
        self,
        endpoints: &[Endpoint],
        index: usize,
        limit: Duration,
    ) -> portlease::Result<()> {
        let Condition::HeldBy(pid) = self else {
            return self.wait(endpoints[index], limit);
        };
        let (before, from) = endpoints.split_at(index);
        wait_until_all_held_by(from.iter().chain(before).copied(), pid, limit)
    }
}
