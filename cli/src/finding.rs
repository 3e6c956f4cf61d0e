//! [`Finding`]: what was found out about one port.

use portlease::{Diagnosis, Endpoint, check_port_free, check_port_listening};

use crate::condition::Condition;

/// What was found out about one port.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) endpoint: Endpoint,
    /// Why it is not as it should be.
    pub(crate) problem: Option<Diagnosis>,
}

impl Finding {
    pub(crate) fn new(endpoint: Endpoint, condition: Condition) -> Self {
        let checked = match condition {
            Condition::Free => check_port_free(endpoint),
            Condition::Listening => check_port_listening(endpoint),
        };
        Finding {
            endpoint,
            problem: checked.err(),
        }
    }

    /// `None` is "could not tell".
    pub(crate) fn answer(&self) -> Option<bool> {
        match &self.problem {
            None => Some(true),
            Some(diagnosis) => diagnosis.could_tell().then_some(false),
        }
    }
}
