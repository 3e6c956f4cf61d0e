//! Windows: finds the calling process.

use crate::caller::{Caller, ends_with_this_call, is_wrapper};
use crate::failure::Failure;
use crate::ffi::command_line::command_line;
use crate::limits::NESTED_CALLERS;
use crate::process_stat::ProcessStat;

/// The nearest ancestor that probably outlives this call. The search passes over:
///
/// - each wrapper that ends with its command
/// - each `cmd /c` that does nothing after this call, such as the one that `for /f` starts
///
/// If every visible ancestor is passed over, the result is the last one, with `is_brief` set.
pub(crate) fn calling_process(_follow_output: bool) -> Result<Caller, Failure> {
    let parent = |process: &ProcessStat| match process.parent {
        0 => None,
        parent => ProcessStat::of(parent),
    };
    let own = ProcessStat::of(std::process::id());
    let Some(mut process) = own.as_ref().and_then(parent) else {
        return Err(Failure::new(
            "cannot determine the calling process: it has ended or cannot be read; name a process \
             with --pid",
        ));
    };
    for _ in 0..NESTED_CALLERS {
        match parent(&process) {
            Some(parent) if is_brief(&process) => process = parent,
            _ => break,
        }
    }
    Ok(Caller {
        pid: process.pid,
        is_brief: is_brief(&process),
        name: process.name,
    })
}

/// Whether the process probably ends as soon as this `portlease reserve` has ended.
fn is_brief(process: &ProcessStat) -> bool {
    if !process.name.eq_ignore_ascii_case("cmd.exe") {
        return is_wrapper(&process.name);
    }
    // If the command line cannot be read, `cmd.exe` counts as a process that outlives `portlease
    // reserve`.
    let line = command_line(process.pid).unwrap_or_default();
    let line = line.to_string_lossy();
    text_of_cmd(&line).is_some_and(ends_with_this_call)
}

/// The TEXT of `cmd /c TEXT`. `None` if the line has no `/c` after a space.
fn text_of_cmd(line: &str) -> Option<&str> {
    // `to_ascii_lowercase` keeps the byte offsets, so `at` is valid in `line` too.
    let lower = line.to_ascii_lowercase();
    let at = lower.find(" /c")?;
    Some(&line[at + " /c".len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_cmd_is_found() {
        for (line, text) in [
            ("cmd /c portlease reserve", Some(" portlease reserve")),
            (r#"C:\x\cmd.exe /d /s /C "a & b""#, Some(r#" "a & b""#)),
            ("cmd.exe", None),
            ("cmd /k x", None),
        ] {
            assert_eq!(text_of_cmd(line), text, "{line}");
        }
    }

    #[test]
    fn the_command_line_of_this_process_is_read() {
        let own = command_line(std::process::id()).unwrap();
        let program = std::env::current_exe().unwrap();
        let name = program.file_name().unwrap().to_string_lossy();
        assert!(own.to_string_lossy().contains(&*name), "{own:?}");
    }
}
