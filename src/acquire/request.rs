//! [`Request`]: validated options of a reservation.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::AttemptError;
use crate::claim;
use crate::model::endpoint::Protocol;
use crate::model::port_set::PortSet;
use crate::ports::{EphemeralRange, services};

/// Options that do not contradict each other.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) protocols: &'static [Protocol],
    /// The server sets SO_REUSEADDR, and so can bind over a claim.
    pub(crate) reuse_addr: bool,
    pub(crate) port: Option<u16>,
    /// `None` is the kernel's choice.
    pub(crate) allowed: Option<RangeInclusive<u16>>,
    pub(crate) prefer: Vec<u16>,
    pub(crate) exclude: PortSet,
    pub(crate) wait: Duration,
    pub(crate) label: Option<String>,
    pub(crate) on_behalf_of: Option<u32>,
    pub(crate) at: &'static std::panic::Location<'static>,
}

impl Request {
    /// Whether a claim keeps the port: its server can bind over one, and the kernel keeps claims.
    pub(super) fn claims(&self, protocol: Protocol) -> Result<bool, AttemptError> {
        Ok(protocol == Protocol::Tcp && self.reuse_addr && keeps_claims()?)
    }

    /// Whether an automatic pick leaves the number to the common service that uses it. It does not
    /// if the caller named a range, or if the administrator withheld the number from the kernel,
    /// perhaps for these tests.
    pub(super) fn leaves_to_service(&self, port: u16) -> bool {
        self.allowed.is_none()
            && services::numbers().contains(port)
            && !EphemeralRange::cached().is_reserved(port)
    }
}

fn keeps_claims() -> Result<bool, AttemptError> {
    match claim::kernel_keeps_claims() {
        Ok(answer) => Ok(answer.is_ok()),
        Err(cause) => Err(AttemptError::System {
            act: "test the kernel's claim on",
            port: None,
            cause,
        }),
    }
}
