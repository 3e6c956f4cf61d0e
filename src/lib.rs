//! Reserve ports.

mod acquire;
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

pub use diagnosis::Diagnosis;
pub use endpoint::{Endpoint, Protocol, ToEndpoint};
pub use error::{Error, ErrorKind, Result};
pub use options::ReserveOptions;
pub use record::Lease;
pub use reservation::{Guarantee, Reservation};
pub use reserve::{reserve_port, reserve_ports, try_reserve_port, try_reserve_ports};
