//! Systems other than Linux: this program cannot adopt the orphans of its descendants.

use crate::failure::Failure;

pub(crate) fn adopt() -> Result<(), Failure> {
    Err(Failure::new(
        "cannot scan for listeners that the command leaves behind: --leaks needs Linux, because \
         only Linux shows which command started a daemon",
    ))
}
