//! [`Request`]: validated options of a reservation.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::AttemptError;
use crate::claim;
use crate::model::endpoint::Protocol;
use crate::model::port_set::PortSet;
use crate::model::server_kind::ServerKind;
use crate::ports::{self, EphemeralRange, services};

/// Validated options: they do not contradict each other.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) protocols: &'static [Protocol],
    pub(crate) server: ServerKind,
    pub(crate) port: Option<u16>,
    /// The requested range. `None` allows every number.
    pub(crate) allowed: Option<RangeInclusive<u16>>,
    pub(crate) prefer: Vec<u16>,
    pub(crate) exclude: PortSet,
    pub(crate) wait: Duration,
    pub(crate) label: Option<String>,
    pub(crate) command: Option<String>,
    pub(crate) on_behalf_of: Option<u32>,
    pub(crate) at: &'static std::panic::Location<'static>,
}

impl Request {
    /// Whether a claim (a bound socket) can keep the port. It can if the port is a TCP port, the
    /// server can bind over a claim, and the kernel passed the self-test of claims.
    pub(super) fn claims(&self, protocol: Protocol) -> Result<bool, AttemptError> {
        Ok(protocol == Protocol::Tcp && self.server.binds_over_claims() && keeps_claims()?)
    }

    /// Whether an automatic pick may yield the number. The caller has already checked that the
    /// number is in the requested range. The pick never yields an excluded number, 65535, or a
    /// number that browsers refuse to connect to.
    ///
    /// If the request has no range, the pick also avoids the numbers of common services. It still
    /// takes such a number if the administrator withheld it from the kernel (on Linux
    /// `ip_local_reserved_ports`), perhaps for these tests.
    pub(crate) fn admits(&self, port: u16) -> bool {
        let is_left_to_service =
            || services::numbers().contains(port) && !EphemeralRange::cached().is_reserved(port);
        !self.exclude.contains(port)
            && !ports::is_blocked(port)
            && (self.allowed.is_some() || !is_left_to_service())
    }

    /// How many numbers of the requested range an automatic pick skips, although the caller does
    /// not exclude them: 65535, and numbers that browsers refuse to connect to. It is 0 without a
    /// range.
    pub(super) fn blocked_in_range(&self) -> usize {
        let range = self.allowed.iter().cloned().flatten();
        range
            .filter(|port| ports::is_blocked(*port) && !self.exclude.contains(*port))
            .count()
    }

    /// Whether the requested range contains every number of the block.
    pub(super) fn allows(&self, mut block: RangeInclusive<u16>) -> bool {
        let allowed = self.allowed.as_ref();
        block.all(|port| allowed.is_none_or(|allowed| allowed.contains(&port)))
    }
}

fn keeps_claims() -> Result<bool, AttemptError> {
    match claim::kernel_keeps_claims() {
        Ok(answer) => Ok(answer.is_ok()),
        Err(cause) => Err(AttemptError::System {
            act: "test whether the kernel can reserve",
            port: None,
            cause,
        }),
    }
}
