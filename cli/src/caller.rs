//! Finds the process that called `reserve`. A keeper process then holds the ports until that
//! process ends. With `--pid`, the user names another process instead.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::limits::NESTED_SHELLS;

/// The names of shells. For a pipe, a list or `$(…)` a shell forks a subshell, which does not call
/// exec.
const SHELLS: [&str; 10] = [
    "ash", "bash", "busybox", "dash", "ksh", "ksh93", "mksh", "sh", "yash", "zsh",
];

/// The nearest ancestor that is not a subshell. A subshell ends long before the script of its
/// shell.
pub(crate) fn calling_process() -> Result<u32, Failure> {
    let mut pid = std::os::unix::process::parent_id();
    if pid == 0 {
        return Err(Failure::new(
            "cannot determine the calling process: it is in another PID namespace; \
             name a process with --pid",
        ));
    }
    for _ in 0..NESTED_SHELLS {
        match ProcessImage::of(pid).and_then(|image| image.forked_from()) {
            Some(parent) => pid = parent,
            None => break,
        }
    }
    Ok(pid)
}

/// The properties of a process by which this file recognises a fork. Except for `parent`, a forked
/// child has the same ones as its parent until one of the two calls exec.
#[derive(Debug, PartialEq, Eq)]
struct ProcessImage {
    program: PathBuf,
    command_line: Vec<u8>,
    /// Address of the arguments, which the kernel randomizes at each exec. 0 if the kernel hides
    /// the address.
    arguments_at: u64,
    /// The pid of the parent.
    parent: u32,
}

impl ProcessImage {
    fn of(pid: u32) -> Option<ProcessImage> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let (parent, arguments_at) =
            parse_stat(&std::fs::read_to_string(folder.join("stat")).ok()?)?;
        Some(ProcessImage {
            program: std::fs::read_link(folder.join("exe")).ok()?,
            command_line: std::fs::read(folder.join("cmdline")).ok()?,
            arguments_at,
            parent,
        })
    }

    /// The pid of the parent, if this process is a shell and a fork of that parent.
    fn forked_from(&self) -> Option<u32> {
        let name = self.program.file_name()?.to_str()?;
        let parent = ProcessImage::of(self.parent)?;
        let is_fork = SHELLS.contains(&name.trim_end_matches(" (deleted)"))
            && self.program == parent.program
            && self.command_line == parent.command_line
            && self.arguments_at == parent.arguments_at;
        is_fork.then_some(self.parent)
    }
}

/// The parent and the address of the arguments: fields 4 and 48 of proc_pid_stat(5). Field 2, the
/// name, may contain blanks and parentheses. So the fields are counted from the end of the name.
fn parse_stat(text: &str) -> Option<(u32, u64)> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let arguments_at = fields.nth(43)?.parse().ok()?;
    Some((parent, arguments_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_counted_from_the_end_of_the_name() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        assert_eq!(
            parse_stat(&format!("77 (a) b (c) {}", fields.join(" "))),
            Some((4, 48))
        );
        assert_eq!(parse_stat("77 (a) S 1"), None);
    }

    #[test]
    fn the_image_of_this_process_has_its_parent() {
        let own = ProcessImage::of(std::process::id()).unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        assert!(own.arguments_at > 0);
        assert_eq!(own.forked_from(), None);
    }
}
