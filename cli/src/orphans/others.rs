//! Systems other than Linux, where this program does not adopt the orphans of its descendants.

use crate::failure::Failure;

pub(crate) fn adopt() -> Result<(), Failure> {
    Err(Failure::new(
        "cannot scan for listeners that the command leaves behind: --leaks needs Linux, because \
         portlease finds the command that started a daemon only there",
    ))
}
