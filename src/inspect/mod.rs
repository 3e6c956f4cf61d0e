//! The state of a port now: whether it is free, who holds it, and how it answers a connection.

mod ancestor;
pub(crate) mod availability;
pub(crate) mod diagnose;
pub(crate) mod ephemeral_usage;
pub(crate) mod expected;
mod facts;
pub(crate) mod inheritance;
pub(crate) mod leak;
pub(crate) mod listening;
pub(crate) mod missing_listener;
pub(crate) mod origin;
mod orphan;
mod own_listeners;
mod port_context;
pub(crate) mod probe;
mod relation;
mod sight;
mod supervisor;
pub(crate) mod watch;
pub(crate) mod who;
