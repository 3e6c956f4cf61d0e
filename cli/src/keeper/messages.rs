//! What `reserve`, `release` and the keeper say to each other.

use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use serde::{Deserialize, Serialize};

use crate::args::PortSelection;
use crate::output::json::ReservedRow;

/// The argument that makes a keeper of this program.
pub(crate) const KEEPER_ARG: &str = "keeper";

/// What `reserve` asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) selection: PortSelection,
    pub(crate) pid: u32,
}

/// What the keeper answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Holds(Vec<ReservedRow>),
    Failed(String),
}

/// Says that the numbers have been printed.
pub(crate) const PRINTED: &str = "printed\n";

pub(crate) const RELEASED: &str = "released";

/// Where a keeper hears of releases: a name that dies with it, and that its network namespace alone sees, as the port.
pub(crate) fn release_address(keeper: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("portlease/keeper/{keeper}"))
}

pub(crate) fn send(socket: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    socket.write_all(&line)
}
