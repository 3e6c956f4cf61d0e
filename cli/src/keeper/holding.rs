//! [`Holding`]: the ports of a keeper (the process that holds the ports).

use std::time::Instant;

use portlease::{Endpoint, Reservation};

use crate::keeper::messages::{LIST, RELEASED};
use crate::output::json::ReservedRow;

/// The ports that the keeper (the background process of `reserve`) holds, and until when.
#[derive(Debug)]
pub(crate) struct Holding {
    pub(crate) held: Vec<Reservation>,
    /// Ports that a port server (the server of `PORTSERVER_ADDRESS`) holds.
    pub(crate) granted: Vec<u16>,
    /// `true` if the port server holds the `granted` ports until this process, the keeper, ends.
    /// `false` if the port server holds them for another process, until the end of that process.
    pub(crate) holds_granted: bool,
    pub(crate) until: Option<Instant>,
}

impl Holding {
    pub(crate) fn rows(&self) -> Vec<ReservedRow> {
        let granted = self.granted.iter().map(|port| ReservedRow::granted(*port));
        let held = self.held.iter().map(ReservedRow::from);
        held.chain(granted).collect()
    }

    pub(crate) fn is_over(&self) -> bool {
        let is_empty = self.held.is_empty() && (self.granted.is_empty() || !self.holds_granted);
        is_empty || self.until.is_some_and(|until| until <= Instant::now())
    }

    /// The ports of `held` that no lock file records.
    pub(crate) fn unrecorded(&self) -> impl Iterator<Item = Endpoint> {
        let unrecorded = self
            .held
            .iter()
            .filter(|reservation| reservation.lease_error().is_some());
        unrecorded.flat_map(endpoints)
    }

    /// The answer to a request of `release` or `list`.
    pub(crate) fn answer(&mut self, request: &str) -> String {
        if request == LIST {
            let ports: Vec<String> = self.unrecorded().map(|port| port.to_string()).collect();
            return ports.join(" ");
        }
        self.release(request)
    }

    /// Releases all protocols of each reservation that has the requested endpoint.
    fn release(&mut self, request: &str) -> String {
        let Ok(endpoint) = request.parse::<Endpoint>() else {
            return "not understood".to_owned();
        };
        let is_named = |reservation: &mut Reservation| matches(endpoint, reservation);
        let released: Vec<Reservation> = self.held.extract_if(.., is_named).collect();
        if released.is_empty() {
            return "not held".to_owned();
        }
        let released = released.iter().flat_map(endpoints);
        released.fold(RELEASED.to_owned(), |answer, endpoint| {
            format!("{answer} {endpoint}")
        })
    }
}

/// The endpoint of each protocol of the reservation.
fn endpoints(reservation: &Reservation) -> impl Iterator<Item = Endpoint> {
    let protocols = reservation.protocols().iter();
    protocols.map(|protocol| Endpoint {
        port: reservation.port(),
        ip: None,
        protocol: Some(*protocol),
    })
}

fn matches(endpoint: Endpoint, reservation: &Reservation) -> bool {
    let has_protocol = |protocol| reservation.protocols().contains(&protocol);
    endpoint.port == reservation.port() && endpoint.protocol.is_none_or(has_protocol)
}
