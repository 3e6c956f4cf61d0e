//! Waiting: to reserve a port, until a server listens, until a port is free.

mod listen;
mod reserve;
mod steady;
