//! [`Condition`]: what ports are to be.

use std::time::Duration;

use portlease::{Endpoint, wait_until_free, wait_until_listening};

/// What the ports are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Free,
    Listening,
}

impl Condition {
    /// `ports … to be free`, `… are free`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Condition::Free => "free",
            Condition::Listening => "listening",
        }
    }

    pub(crate) fn wait(self, endpoint: Endpoint, limit: Duration) -> portlease::Result<()> {
        match self {
            Condition::Free => wait_until_free(endpoint, limit),
            Condition::Listening => wait_until_listening(endpoint, limit),
        }
    }
}
