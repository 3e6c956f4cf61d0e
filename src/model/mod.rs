//! The public types that only hold data, such as errors and reports, and the private types behind
//! them. The parsers and the texts of these types are here too. The only I/O in this folder looks
//! up the names and indexes of network interfaces.

pub(crate) mod attempt_stats;
pub(crate) mod diagnosis;
pub(crate) mod endpoint;
pub(crate) mod ephemeral_usage;
pub(crate) mod error;
pub(crate) mod error_kind;
mod error_text;
pub(crate) mod holder;
mod holder_report;
mod holder_text;
pub(crate) mod holders;
pub(crate) mod incompleteness;
pub(crate) mod lease_info;
pub(crate) mod listeners;
pub(crate) mod offsets;
pub(crate) mod port;
pub(crate) mod port_set;
pub(crate) mod process;
pub(crate) mod record;
pub(crate) mod remedy;
pub(crate) mod server_kind;
pub(crate) mod state;
#[cfg(test)]
mod test_holders;
mod text;
pub(crate) mod to_endpoint;
