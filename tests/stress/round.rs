//! A round, for each kind of server.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;

use portlease::{Reservation, ReserveOptions};

use super::{EPHEMERAL_PORTS, load};
use crate::support::helper::EPHEMERAL_LOW;

/// The servers of a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// TCP with SO_REUSEADDR.
    Tcp,
    /// TCP without SO_REUSEADDR.
    Plain,
    Udp,
    /// TCP with SO_REUSEADDR, and UDP on the same port.
    Pair,
}

impl Kind {
    pub(super) fn of(name: &str) -> Kind {
        match name {
            "tcp" => Kind::Tcp,
            "plain" => Kind::Plain,
            "udp" => Kind::Udp,
            "pair" => Kind::Pair,
            other => panic!("no such kind: {other}"),
        }
    }

    fn options(self) -> ReserveOptions {
        match self {
            Kind::Tcp => ReserveOptions::new(),
            Kind::Plain => ReserveOptions::new().reuse_addr(false),
            Kind::Udp => ReserveOptions::new().udp(),
            Kind::Pair => ReserveOptions::new().tcp_and_udp(),
        }
    }

    fn serve_once(self, port: u16) -> Result<(), String> {
        if self != Kind::Udp {
            load::serve_tcp_once(port, self != Kind::Plain)?;
        }
        if matches!(self, Kind::Udp | Kind::Pair) {
            load::serve_udp_once(port)?;
        }
        Ok(())
    }
}

/// Restarts a server without SO_REUSEADDR on a port that nothing else uses. Returns how many of
/// these restarts the server's own last connection refused. Before Linux 6.12 the kernel refuses
/// some, with and without this crate.
pub(super) fn restarts_refused(port: u16, times: usize) -> usize {
    let refused = (0..times).filter(|_| {
        let outcome = load::boot_twice(port, |port| load::serve_tcp_once(port, false));
        outcome.is_err_and(|reason| is_refused_restart(&reason))
    });
    refused.count()
}

/// Whether a round ended at the second bind of its server. The last connection of the first server
/// may have refused it.
pub(super) fn is_refused_restart(reason: &str) -> bool {
    reason.contains("second start: bind: ")
}

/// A round that gets no port is lost too.
pub(super) fn reserved_round(kind: Kind) -> Result<(), String> {
    let reservation = kind
        .options()
        .reserve()
        .map_err(|e| format!("no port: {e}"))?;
    boot_twice(kind, reservation.port())?;
    drop(reservation);
    Ok(())
}

pub(super) fn picked_round(kind: Kind) -> Result<(), String> {
    let no_port = |e: io::Error| format!("no port: {e}");
    let any = (Ipv4Addr::LOCALHOST, 0);
    let addr = match kind {
        Kind::Udp => UdpSocket::bind(any).and_then(|socket| socket.local_addr()),
        _ => TcpListener::bind(any).and_then(|socket| socket.local_addr()),
    };
    boot_twice(kind, addr.map_err(no_port)?.port())
}

pub(super) fn exact_round(port: u16) -> Result<(), String> {
    let reserved = ReserveOptions::new()
        .port(port)
        .wait(Duration::from_secs(20))
        .reserve();
    let reservation: Reservation = reserved.map_err(|e| format!("no exact port: {e}"))?;
    load::serve_tcp_once(reservation.port(), true)
}

/// Checks a port of the range, in a way that is picked at random. No way may make another
/// reservation or server fail.
pub(super) fn check() {
    let port = EPHEMERAL_LOW + fastrand::u16(0..EPHEMERAL_PORTS);
    // The results do not matter here.
    match fastrand::u8(0..6) {
        0 => drop(ReserveOptions::new().port(port).reserve()),
        1 => drop(load::bound(port, false)),
        2 => drop(load::bound(port, true)),
        3 => drop(portlease::is_port_free(port)),
        4 => drop(portlease::reservations()),
        _ => drop(portlease::who_holds(port)),
    }
}

fn boot_twice(kind: Kind, port: u16) -> Result<(), String> {
    load::boot_twice(port, |port| kind.serve_once(port))
}
