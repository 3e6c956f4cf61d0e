//! macOS and the BSDs: [`ProcessStat`] shows whether a process has called exec, but not its
//! arguments.

use crate::caller::{Caller, is_wrapper};
use crate::failure::Failure;
use crate::limits::NESTED_CALLERS;
use crate::process_stat::ProcessStat;

/// The first process of the system, which outlives every caller.
const INIT: u32 = 1;

/// The nearest ancestor that probably outlives this call. Passes over subshells, which have not
/// called exec, and over wrappers that end with their command. Does not pass over `sh -c`, because
/// this function does not read the arguments of a process.
pub(crate) fn calling_process(_follow_output: bool) -> Result<Caller, Failure> {
    let parent = std::os::unix::process::parent_id();
    let Some(mut process) = ProcessStat::of(parent) else {
        return Err(Failure::new(
            "cannot determine the calling process: this user may not see it; name a process with \
             --pid",
        ));
    };
    for _ in 0..NESTED_CALLERS {
        let is_passed_over = !process.has_called_exec || is_wrapper(&process.name);
        if !is_passed_over || process.parent == INIT {
            break;
        }
        let Some(parent) = ProcessStat::of(process.parent) else {
            break;
        };
        process = parent;
    }
    Ok(Caller {
        pid: process.pid,
        is_brief: is_wrapper(&process.name),
        name: process.name,
    })
}
