//! Free ports, and the guarantee that a test expects of a reservation.

use portlease::{Guarantee, ReserveOptions};

use super::DEADLINE;

/// Whether a TCP reservation has the right guarantee. On Linux a claim keeps the port. Elsewhere it
/// is a non-ephemeral one, which is known only where the ephemeral range can be read: wine has
/// none.
pub(crate) fn is_tcp_guarantee(guarantee: Guarantee) -> bool {
    match guarantee {
        Guarantee::Kernel => cfg!(target_os = "linux"),
        _ => !cfg!(target_os = "linux"),
    }
}

/// A free port that stays free for a while: on most machines it is outside the ephemeral range, so
/// that the kernel assigns it to no process.
pub(crate) fn non_ephemeral_port() -> u16 {
    non_ephemeral_ports(1)[0]
}

/// This number of consecutive free ports.
pub(crate) fn non_ephemeral_ports(count: usize) -> Vec<u16> {
    let block = ReserveOptions::new()
        .range(20000..=29999)
        .reserve_block(count)
        .unwrap();
    let ports: Vec<u16> = block.iter().map(|r| r.port()).collect();
    drop(block);
    // A child that another test has just forked shares the claims until it calls exec.
    for port in &ports {
        portlease::wait_until_free(*port, DEADLINE).unwrap();
    }
    ports
}
