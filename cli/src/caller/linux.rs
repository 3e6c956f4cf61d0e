//! Linux: /proc shows the arguments and the stdout of an ancestor.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::caller::{Caller, ends_with_this_call, is_wrapper};
use crate::failure::Failure;
use crate::limits::NESTED_CALLERS;
use crate::process_stat::ProcessStat;

/// The names of shells. Only a process with one of these names counts as a subshell or as an
/// `sh -c`.
const SHELLS: [&str; 11] = [
    "ash", "bash", "busybox", "dash", "fish", "ksh", "ksh93", "mksh", "sh", "yash", "zsh",
];

/// Names of the first process of a system or of a container, which outlives every caller.
const INITS: [&str; 6] = [
    "catatonit",
    "docker-init",
    "dumb-init",
    "init",
    "systemd",
    "tini",
];

/// The nearest ancestor that probably outlives this call. Passes over subshells, wrappers that end
/// with their command, and each `sh -c` that does nothing after this call. With `follow_output`,
/// also passes over an ancestor whose stdout is the pipe or file to which the numbers go. Such an
/// ancestor does not read the numbers. Its own caller does.
pub(crate) fn calling_process(follow_output: bool) -> Result<Caller, Failure> {
    let parent = std::os::unix::process::parent_id();
    let Some(mut image) = ProcessImage::of(parent) else {
        let cause = match parent {
            0 => "it is in another pid namespace",
            _ => "it cannot be seen in /proc",
        };
        return Err(Failure::new(format!(
            "cannot determine the calling process: {cause}; name a process with --pid"
        )));
    };
    let output = Output::last_of_pipe(parent);
    let followed = output.filter(|_| follow_output);
    for _ in 0..NESTED_CALLERS {
        let Some(parent) = ProcessImage::of(image.stat.parent) else {
            break;
        };
        let is_passed_over = image.is_fork_of(&parent)
            || image.is_wrapper()
            || image.is_brief_shell(output)
            || image.leaves_output_to_its_caller(followed);
        if !is_passed_over || parent.is_init() {
            break;
        }
        image = parent;
    }
    let is_brief = image.is_wrapper()
        || image.is_brief_shell(output)
        || image.leaves_output_to_its_caller(output);
    Ok(Caller {
        pid: image.stat.pid,
        name: image.stat.name,
        is_brief,
    })
}

/// Whether the process is a shell, such as one that runs a script.
pub(crate) fn is_shell(pid: u32) -> bool {
    ProcessImage::of(pid).is_some_and(|image| image.is_shell())
}

/// The properties of a process that show whether it is the caller. Until a forked child or its
/// parent calls exec, they share the name, command line and program. The arguments of both are
/// then at the same memory address too.
#[derive(Debug)]
struct ProcessImage {
    stat: ProcessStat,
    arguments: Vec<String>,
    /// `None` if `/proc/PID/exe` cannot be read, usually because the process belongs to another
    /// user.
    program: Option<PathBuf>,
}

impl ProcessImage {
    fn of(pid: u32) -> Option<ProcessImage> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let line = std::fs::read(folder.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let line = line.strip_suffix('\0').unwrap_or(&line);
        Some(ProcessImage {
            stat: ProcessStat::of(pid)?,
            arguments: line.split('\0').map(str::to_owned).collect(),
            program: std::fs::read_link(folder.join("exe")).ok(),
        })
    }

    fn is_shell(&self) -> bool {
        let named = Path::new(self.arguments[0].trim_start_matches('-'));
        let names = [self.program.as_deref(), Some(named)];
        names.into_iter().flatten().any(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| SHELLS.contains(&name.trim_end_matches(" (deleted)")))
        })
    }

    /// Returns `true` if the process of this image is a subshell that `parent` forked without exec.
    fn is_fork_of(&self, parent: &ProcessImage) -> bool {
        self.is_shell()
            && self.arguments == parent.arguments
            && self.stat.name == parent.stat.name
            && self.stat.arguments_at == parent.stat.arguments_at
            && self.program == parent.program
    }

    fn is_wrapper(&self) -> bool {
        is_wrapper(&self.stat.name)
    }

    fn is_init(&self) -> bool {
        self.stat.pid == 1 && INITS.contains(&self.stat.name.as_str())
    }

    /// Returns `true` if the process of this image is a shell with `-c TEXT`, and TEXT ends with
    /// this call of `reserve`. Exception: `false` if the shell itself reads `output`, as for
    /// `$(…)`.
    fn is_brief_shell(&self, output: Option<Output>) -> bool {
        // The arguments of `busybox sh -c TEXT` contain the name of the shell, here `sh`, before
        // the `-c`.
        let is_applet = self.arguments[0].ends_with("busybox");
        let mut arguments = self.arguments.iter().skip(1 + usize::from(is_applet));
        let has_text = arguments
            .by_ref()
            .take_while(|argument| argument.starts_with(['-', '+']))
            .any(|option| !option.starts_with("--") && option.contains('c'));
        let Some(text) = arguments.next().filter(|_| has_text && self.is_shell()) else {
            return false;
        };
        let own = Output::of(&self.stat.pid.to_string(), 1);
        let may_read = text.contains("$(") || text.contains('`');
        let reads = may_read && own.is_some() && output.is_some_and(|o| o.is_pipe && own != output);
        ends_with_this_call(text) && !reads
    }

    /// Returns `true` if the process of this image has `output` as its stdout. In that case, the
    /// caller of that process reads the numbers.
    fn leaves_output_to_its_caller(&self, output: Option<Output>) -> bool {
        output.is_some() && Output::of(&self.stat.pid.to_string(), 1) == output
    }
}

/// The pipe or the regular file behind a descriptor of a process. A terminal does not count: many
/// processes share a terminal, so it does not show which of them reads the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Output {
    device: u64,
    inode: u64,
    is_pipe: bool,
}

impl Output {
    fn of(process: &str, descriptor: u8) -> Option<Output> {
        let file: Metadata = std::fs::metadata(format!("/proc/{process}/fd/{descriptor}")).ok()?;
        let kind = file.file_type();
        (kind.is_fifo() || kind.is_file()).then(|| Output {
            device: file.dev(),
            inode: file.ino(),
            is_pipe: kind.is_fifo(),
        })
    }

    /// Follows the output of this process to the last program of its pipeline, and returns the
    /// stdout of that program. If that stdout is neither a pipe nor a file, returns the pipe that
    /// the last program reads. Returns `None` if the stdout of this process is neither a pipe nor a
    /// file.
    ///
    /// `parent` is the parent of this process. A shell starts every program of a pipeline, so the
    /// other programs have the same parent.
    fn last_of_pipe(parent: u32) -> Option<Output> {
        let own = std::process::id();
        let mut output = Output::of("self", 1)?;
        let all = ProcessStat::all().unwrap_or_default();
        let siblings = all
            .iter()
            .filter(|process| process.parent == parent && process.pid != own);
        for _ in siblings.clone() {
            let reader = siblings
                .clone()
                .find(|sibling| Output::of(&sibling.pid.to_string(), 0) == Some(output));
            match reader.and_then(|reader| Output::of(&reader.pid.to_string(), 1)) {
                Some(next) => output = next,
                None => break,
            }
        }
        Some(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_no_fork_and_no_wrapper() {
        let own = ProcessImage::of(std::process::id()).unwrap();
        let parent = ProcessImage::of(std::os::unix::process::parent_id()).unwrap();
        assert_eq!(own.stat.parent, parent.stat.pid);
        assert!(!own.is_fork_of(&parent) && !own.is_wrapper() && !own.is_brief_shell(None));
    }
}
