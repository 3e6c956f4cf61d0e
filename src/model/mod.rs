//! The public words: types, parsing and `Display`. No I/O.

pub(crate) mod diagnosis;
pub(crate) mod endpoint;
pub(crate) mod error;
pub(crate) mod holder;
pub(crate) mod port_set;
pub(crate) mod record;
