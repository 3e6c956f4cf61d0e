//! Numbers and grades that the tests go by.

use portlease::{Guarantee, ReserveOptions};

use crate::support::DEADLINE;

/// The grade of a TCP reservation: a claim keeps it on Linux, elsewhere the number is a quiet one.
pub(crate) const OF_TCP: Guarantee = if cfg!(target_os = "linux") {
    Guarantee::Kernel
} else {
    Guarantee::Cooperative
};

/// A free number that the kernel gives to nobody by itself on most machines, so that it stays free for a while.
pub(crate) fn quiet_number() -> u16 {
    quiet_range(1)[0]
}

/// So many consecutive ones.
pub(crate) fn quiet_range(count: usize) -> Vec<u16> {
    let block = ReserveOptions::new()
        .range(20000..=29999)
        .reserve_block(count)
        .unwrap();
    let ports: Vec<u16> = block.iter().map(|r| r.port()).collect();
    drop(block);
    // A child that another test forked at this moment has the claims too, until it execs.
    for port in &ports {
        portlease::wait_until_free(*port, DEADLINE).unwrap();
    }
    ports
}
