//! [`Aim`]: what ports are to be.

use std::time::Duration;

use portlease::{Endpoint, wait_until_free, wait_until_listening};

/// What the ports are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    Free,
    Listening,
}

impl Aim {
    /// `ports … to be free`, `… are free`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Aim::Free => "free",
            Aim::Listening => "listening",
        }
    }

    pub(crate) fn wait(self, endpoint: Endpoint, at_most: Duration) -> portlease::Result<()> {
        match self {
            Aim::Free => wait_until_free(endpoint, at_most),
            Aim::Listening => wait_until_listening(endpoint, at_most),
        }
    }
}
