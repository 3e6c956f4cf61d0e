//! [`Condition`]: what a check asserts of a port, and what a wait waits for.

use std::time::Duration;

use portlease::{Endpoint, wait_until_free, wait_until_listening};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Free,
    Listening,
}

impl Condition {
    /// The condition that `--listening` selects.
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
