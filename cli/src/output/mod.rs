//! The texts and formats that people and machines read.

pub(crate) mod annotations;
pub(crate) mod console;
pub(crate) mod ephemeral_usage;
pub(crate) mod json;
pub(crate) mod junit;
pub(crate) mod port_row;
pub(crate) mod remedy;
pub(crate) mod report;
pub(crate) mod table;
pub(crate) mod variables;
