//! The messages that `reserve` and `release` exchange with the keeper (the process that holds
//! ports).

use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use serde::{Deserialize, Serialize};

use crate::args::PortSelection;
use crate::output::json::ReservedRow;

/// The single argument with which `reserve` starts this program as a keeper.
pub(crate) const KEEPER_ARG: &str = "keeper";

/// `reserve` sends this request to the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) selection: PortSelection,
    pub(crate) pid: u32,
}

/// The keeper sends this answer to `reserve`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Holds(Vec<ReservedRow>),
    Failed(String),
}

/// `reserve` sends this line to the keeper when it has printed the numbers.
pub(crate) const PRINTED: &str = "printed\n";

/// The keeper sends this line to `release` when it has released the port.
pub(crate) const RELEASED: &str = "released";

/// The address on which a keeper accepts release requests. An abstract name disappears with the
/// process that bound it. It belongs to one network namespace, as the ports do.
pub(crate) fn release_address(keeper: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("portlease/keeper/{keeper}"))
}

pub(crate) fn send(socket: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    socket.write_all(&line)
}
