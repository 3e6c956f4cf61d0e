//! [`AttemptStats`]: the numbers that an automatic pick tried, by outcome.

use std::fmt;
use std::path::PathBuf;

use super::port::Port;
use crate::retry::FEW_NUMBERS;

/// The numbers that an automatic pick tried, by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttemptStats {
    pub(crate) in_use: usize,
    pub(crate) reserved: usize,
    pub(crate) privileged: usize,
    pub(crate) excluded: usize,
    planted: usize,
    /// The path of one planted lock file.
    example: Option<PathBuf>,
    /// The last free numbers were left for outgoing connections.
    pub(crate) spared: bool,
    /// The numbers were of the ephemeral range.
    pub(crate) ephemeral: bool,
    /// The length of the requested block.
    pub(crate) block: Option<usize>,
    /// The first refused numbers that a socket or a name just released may have refused.
    residual: Vec<Port>,
}

impl AttemptStats {
    pub(crate) fn of_block(n: usize) -> Self {
        AttemptStats {
            block: Some(n),
            ..Self::default()
        }
    }

    pub(crate) fn tried(&self) -> usize {
        self.in_use + self.reserved + self.privileged + self.excluded + self.planted
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
        self.example.get_or_insert(path);
    }
}

/// `12 tried: 9 in use, 3 reserved by others`.
impl fmt::Display for AttemptStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let planted = match &self.example {
            Some(path) => format!("with a lock file that cannot be used ({})", path.display()),
            None => String::new(),
        };
        let counts = [
            (self.in_use, "in use"),
            (self.reserved, "reserved by others"),
            (self.privileged, "privileged"),
            (self.excluded, "excluded"),
            (self.planted, planted.as_str()),
        ];
        write!(f, "{} tried", self.tried())?;
        let mut separator = ": ";
        for (n, what) in counts.into_iter().filter(|(n, _)| *n > 0) {
            write!(f, "{separator}{n} {what}")?;
            separator = ", ";
        }
        match self.spared {
            true => f.write_str(
                "; the last ones are left for outgoing connections, which need one each",
            ),
            false => Ok(()),
        }
    }
}
