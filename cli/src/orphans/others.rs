//! Systems other than Linux, where this program does not adopt the orphans of its descendants.

use crate::failure::Failure;

pub(crate) fn adopt() -> Result<(), Failure> {
    Err(Failure::new(
        "cannot scan for listeners that the command leaves behind: --leaks needs Linux, because \
         only there can portlease find the command that started a daemon",
    ))
}
