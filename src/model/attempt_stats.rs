//! [`AttemptStats`]: how many numbers an automatic pick tried, and why each was rejected.

use std::fmt;
use std::path::PathBuf;

use super::offsets::Offsets;
use super::port::Port;
use super::port_set::PortSet;
use crate::retry::FEW_NUMBERS;

/// How many numbers an automatic pick tried, and why each was rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttemptStats {
    /// How many ports the call should reserve. Stays 0 for ports at fixed distances from a base
    /// number.
    pub(crate) requested: usize,
    /// The ports that the same call had already reserved. Includes only ports that the options
    /// allow for the pick.
    pub(crate) own: PortSet,
    pub(crate) in_use: usize,
    pub(crate) reserved: usize,
    pub(crate) not_permitted: usize,
    pub(crate) excluded: usize,
    /// How many of the allowed numbers the pick skipped: 65535, and the numbers that browsers
    /// refuse to connect to. A pick without a range (of the request or of `PORTLEASE_RANGE`) counts
    /// them only if it tried no number at all.
    pub(crate) blocked: usize,
    /// The number of ports whose lock file could not be opened, for example because its path leads
    /// to a folder.
    planted: usize,
    /// The path of the first lock file that could not be opened.
    planted_path: Option<PathBuf>,
    /// Whether the pick left the last free ephemeral numbers for outgoing connections.
    pub(crate) spared: bool,
    /// The distances of the requested ports from their base number. `None` if the caller requested
    /// no distances.
    pub(crate) offsets: Option<Offsets>,
    /// The first [`FEW_NUMBERS`] ports that a socket or an abstract Unix socket name blocked. The
    /// owners of these ports decide how long the call retries.
    residual: Vec<Port>,
}

impl AttemptStats {
    pub(crate) fn of_several(offsets: Offsets) -> Self {
        AttemptStats {
            offsets: Some(offsets),
            ..Self::default()
        }
    }

    pub(crate) fn tried(&self) -> usize {
        self.own.len()
            + self.in_use
            + self.reserved
            + self.not_permitted
            + self.excluded
            + self.planted
    }

    pub(crate) fn note_residual(&mut self, port: Port) {
        if self.residual.len() < FEW_NUMBERS {
            self.residual.push(port);
        }
    }

    pub(crate) fn residual(&self) -> &[Port] {
        &self.residual
    }

    pub(crate) fn note_planted(&mut self, path: PathBuf) {
        self.planted += 1;
        self.planted_path.get_or_insert(path);
    }
}

/// Prints text such as `12 tried: 9 in use, 3 already reserved`. Ports that the same call had
/// already reserved count as tried.
impl fmt::Display for AttemptStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let planted = match &self.planted_path {
            Some(path) => format!("with an unusable lock file ({})", path.display()),
            None => String::new(),
        };
        let counts = [
            (self.own.len(), "taken by this call itself"),
            (self.in_use, "in use"),
            (self.reserved, "already reserved"),
            (self.not_permitted, "not permitted"),
            (self.excluded, "excluded"),
            (self.planted, planted.as_str()),
        ];
        write!(f, "{} tried", self.tried())?;
        let mut separator = ": ";
        for (count, outcome) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {outcome}")?;
            separator = ", ";
        }
        if self.blocked > 0 {
            write!(
                f,
                "; {} not tried (port 65535, or ports that browsers refuse)",
                self.blocked
            )?;
            if self.tried() == 0 {
                f.write_str("; to reserve such a port, request its exact number")?;
            }
        }
        if self.spared {
            f.write_str("; portlease leaves the last free ports for outgoing connections")?;
        }
        Ok(())
    }
}
