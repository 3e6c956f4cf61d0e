//! The messages that `reserve`, `release` and `list` exchange with the keeper (the process that
//! holds ports).

use std::io::{self, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::args::PortSelection;
use crate::output::json::ReservedRow;

/// The single argument with which `reserve` starts this program as a keeper.
pub(crate) const KEEPER_ARG: &str = "keeper";

/// `reserve` sends this request to the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) selection: PortSelection,
    /// The process that the ports are held for. `None` if the ports are held only for the time
    /// `hold_for`.
    pub(crate) pid: Option<u32>,
    pub(crate) hold_for: Option<Duration>,
}

/// The keeper sends this answer to `reserve`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Holds {
        rows: Vec<ReservedRow>,
        /// `false` if the keeper ends at once, in one of two cases: the time `hold_for` has passed,
        /// or a port server holds every port until the process `pid` ends.
        stays: bool,
    },
    Failed(String),
}

/// `reserve` sends this line to the keeper after printing the numbers.
pub(crate) const PRINTED: &str = "printed\n";

/// After releasing a port, the keeper answers `release` with this word and the released endpoints,
/// such as `released 40001/tcp 40001/udp`.
pub(crate) const RELEASED: &str = "released";

/// `list` sends this request to a keeper. The keeper answers with the ports that no lock file
/// records, such as `40001/tcp 40002/tcp`.
pub(crate) const LIST: &str = "list";

pub(crate) fn send(writer: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    writer.write_all(&line)?;
    writer.flush()
}
