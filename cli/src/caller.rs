//! Finds the process for which `reserve` holds the ports. By default, that is the caller of
//! `reserve`, such as a shell. With `--pid job`, it is the process that runs the CI job.

use crate::failure::Failure;
use crate::process_stat::ProcessStat;

#[cfg(all(unix, not(target_os = "linux")))]
mod bsd;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

#[cfg(all(unix, not(target_os = "linux")))]
use bsd as system;
#[cfg(target_os = "linux")]
use linux as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::calling_process;
#[cfg(target_os = "linux")]
pub(crate) use system::is_shell;

/// Programs that start a command, and end when the command ends. Programs such as nice(1) are not
/// listed: exec replaces them by their command, so they are never an ancestor of the command.
const WRAPPERS: [&str; 22] = [
    "bwrap",
    "cargo",
    "chronic",
    "dbus-run-session",
    "direnv",
    "doas",
    "firejail",
    "flock",
    "ltrace",
    "mise",
    "nsenter",
    "npx",
    "runuser",
    "setsid",
    "strace",
    "su",
    "sudo",
    "time",
    "timeout",
    "unshare",
    "uv",
    "xargs",
];

/// The names of the processes that run one job of GitHub Actions or of Azure Pipelines.
const JOBS: [&str; 2] = ["Runner.Worker", "Agent.Worker"];

/// The process that the ports are held for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) pid: u32,
    pub(crate) name: String,
    /// `true` if the process may end before the numbers are used, as a wrapper does. The end of the
    /// process releases the ports.
    pub(crate) is_brief: bool,
}

/// The pid of the ancestor that runs the CI job, for `--pid job`.
pub(crate) fn job() -> Result<u32, Failure> {
    let job = ProcessStat::lineage().find(|stat| is_one_of(&JOBS, &stat.name));
    if let Some(job) = job {
        return Ok(job.pid);
    }
    Err(Failure::new(format!(
        "cannot find the CI job: no ancestor of this process is named {}; pass the pid of a \
         process with --pid PID, or hold the ports for a time with --for DURATION",
        JOBS.join(" or ")
    )))
}

fn is_wrapper(name: &str) -> bool {
    is_one_of(&WRAPPERS, name)
}

/// Returns `true` if the program has one of these names. On Windows, ignores case and a `.exe` at
/// the end of the program's name. Linux reports only the first 15 bytes of a program's name.
fn is_one_of(names: &[&str], program: &str) -> bool {
    const REPORTED: usize = 15;
    if cfg!(windows) {
        let lower = program.to_ascii_lowercase();
        names.contains(&lower.strip_suffix(".exe").unwrap_or(&lower))
    } else if cfg!(target_os = "linux") && program.len() == REPORTED {
        names.iter().any(|name| name.starts_with(program))
    } else {
        names.contains(&program)
    }
}

/// Returns `true` if the TEXT of `sh -c TEXT` or `cmd /c TEXT` ends with a call of `reserve`. A
/// pipe, a redirection, or `|| COMMAND` may follow the call.
#[cfg(any(target_os = "linux", windows))]
fn ends_with_this_call(text: &str) -> bool {
    let Some((_, rest)) = text.rsplit_once("reserve") else {
        return false;
    };
    let mut rest = rest.to_owned();
    for redirection in ["2>&1", "1>&2", ">&2", "&>"] {
        rest = rest.replace(redirection, " ");
    }
    !rest.trim_end().contains([';', '&', '\n', ')', '`'])
}

#[cfg(test)]
#[cfg(any(target_os = "linux", windows))]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_that_linux_reports_in_part_is_recognized() {
        assert!(is_wrapper("dbus-run-sessio"));
        assert!(!is_wrapper("dbus-run"));
    }

    #[test]
    fn the_text_of_a_shell_ends_with_this_call_or_goes_on() {
        for text in [
            "portlease reserve",
            "cd / && portlease reserve --label x 2>&1",
            "portlease reserve | tail -n 1",
            "portlease reserve || exit 1\n",
        ] {
            assert!(ends_with_this_call(text), "{text}");
        }
        for text in [
            "P=$(portlease reserve); server $P",
            "server $(portlease reserve)",
            "portlease reserve > file && server",
            "portlease reserve\nserver",
            "./script",
        ] {
            assert!(!ends_with_this_call(text), "{text}");
        }
    }
}
