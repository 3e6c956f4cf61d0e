//! Reserve ports.

mod acquire;
mod assert;
mod claim;
mod diagnose;
mod diagnosis;
mod endpoint;
mod error;
mod holder;
mod lease;
mod options;
mod own;
mod pool;
mod record;
mod reservation;
mod reserve;
mod table;
mod wait;

pub use assert::{
    assert_no_leaked_listeners, assert_port_free, assert_port_held_by, assert_port_listening,
    assert_ports_free, check_no_leaked_listeners, check_port_free, check_port_held_by, check_port_listening,
    check_ports_free, is_port_free,
};
pub use diagnose::{diagnose, who_holds};
pub use diagnosis::Diagnosis;
pub use endpoint::{Endpoint, Protocol, ToEndpoint};
pub use error::{Error, ErrorKind, Result};
pub use holder::{Holder, Holders, Process, State};
pub use options::ReserveOptions;
pub use record::Lease;
pub use reservation::{Guarantee, Reservation};
pub use reserve::{reservations, reserve_port, reserve_ports, try_reserve_port, try_reserve_ports};
pub use wait::{Reachability, probe, wait_until_free, wait_until_listening};
