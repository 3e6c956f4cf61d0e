//! Windows: the link between `reserve` and the keeper (the process that holds the ports) is two
//! pipes, which are the stdin and the stdout of the keeper.

use std::io::{self, BufReader, Stdin, Stdout};
use std::os::windows::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use windows_sys::Win32::System::Threading::{
    CREATE_BREAKAWAY_FROM_JOB, CREATE_NEW_PROCESS_GROUP, DETACHED_PROCESS,
};

use crate::ffi::windows::keep_handles_from_children;
use crate::limits::INHERITED_HANDLES;
use crate::process::ProcessHandle;

/// The side of the link that `reserve` has.
#[derive(Debug)]
pub(crate) struct KeeperLink {
    pub(crate) pid: u32,
    pub(crate) reader: BufReader<ChildStdout>,
    pub(crate) writer: ChildStdin,
}

impl KeeperLink {
    /// Starts this program as a keeper, which holds the ports. The keeper has no console, so it
    /// gets no Ctrl-C. If the job object of this process allows it, the keeper leaves the job: a CI
    /// system ends all processes of the job when a step ends.
    pub(crate) fn start(arg: &str, _process: Option<&ProcessHandle>) -> io::Result<KeeperLink> {
        // The caller of `reserve` reads the numbers from a pipe until every handle of the pipe's
        // write end is closed. So the keeper must inherit no handle of the write end. Besides its
        // stdout, this process can have inherited further handles of the write end.
        keep_handles_from_children(INHERITED_HANDLES);
        let flags = DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP;
        let keeper = match spawn(arg, flags | CREATE_BREAKAWAY_FROM_JOB) {
            // The job object of this process does not allow the keeper to leave the job.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => spawn(arg, flags)?,
            started => started?,
        };
        let pid = keeper.id();
        let (Some(writer), Some(reader)) = (keeper.stdin, keeper.stdout) else {
            return Err(io::Error::other(
                "the process that holds the ports has no pipes",
            ));
        };
        Ok(KeeperLink {
            pid,
            reader: BufReader::new(reader),
            writer,
        })
    }
}

fn spawn(arg: &str, flags: u32) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg(arg)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .creation_flags(flags)
        .spawn()
}

/// The side of the link that the keeper has.
#[derive(Debug)]
pub(crate) struct ReserveLink {
    pub(crate) reader: BufReader<Stdin>,
    pub(crate) writer: Stdout,
}

impl ReserveLink {
    pub(crate) fn inherited() -> io::Result<ReserveLink> {
        Ok(ReserveLink {
            reader: BufReader::new(io::stdin()),
            writer: io::stdout(),
        })
    }
}

/// Makes the keeper independent of the caller of `reserve`.
pub(crate) fn detach() -> io::Result<()> {
    // The working directory of a process cannot be deleted, so the keeper moves to the root.
    std::env::set_current_dir("\\")
}
