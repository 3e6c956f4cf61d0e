//! Unix: the link between `reserve` and the keeper (the process that holds the ports) is a socket.
//! The socket is the stdout of the keeper.

use std::io::{self, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::process::ProcessHandle;

/// The link as `reserve` sees it: the socket to the keeper.
#[derive(Debug)]
pub(crate) struct KeeperLink {
    pub(crate) pid: u32,
    pub(crate) reader: BufReader<UnixStream>,
    pub(crate) writer: UnixStream,
}

impl KeeperLink {
    /// Starts this program as a keeper. The stdin of the keeper is a pidfd of `process`, or
    /// `/dev/null` if there is no pidfd.
    pub(crate) fn start(arg: &str, process: Option<&ProcessHandle>) -> io::Result<KeeperLink> {
        let stdin = process.map_or(Ok(Stdio::null()), ProcessHandle::for_keeper)?;
        let (writer, keeper_socket) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(arg)
            .stdin(stdin)
            .stdout(OwnedFd::from(keeper_socket))
            .stderr(Stdio::null());
        // The keeper can outlive the caller of `reserve`. If the keeper inherited the caller's open
        // files, a file that the caller locked with flock(2) would stay locked.
        close_fds::set_fds_cloexec(3, &[]);
        let keeper = command.spawn()?;
        // `command` contains a copy of the keeper's end of the socket. While this process has the
        // copy, a read from the socket would not end when the keeper dies.
        drop(command);
        Ok(KeeperLink {
            pid: keeper.id(),
            reader: BufReader::new(writer.try_clone()?),
            writer,
        })
    }
}

/// The link as the keeper sees it: the socket to `reserve`.
#[derive(Debug)]
pub(crate) struct ReserveLink {
    pub(crate) reader: BufReader<UnixStream>,
    pub(crate) writer: UnixStream,
}

impl ReserveLink {
    pub(crate) fn inherited() -> io::Result<ReserveLink> {
        let socket = io::stdout().as_fd().try_clone_to_owned()?;
        let writer = UnixStream::from(socket);
        // If a user starts `portlease keeper`, stdout is usually not a socket, and this call fails.
        writer.peer_addr()?;
        Ok(ReserveLink {
            reader: BufReader::new(writer.try_clone()?),
            writer,
        })
    }
}

/// Makes the keeper independent of the caller of `reserve`.
pub(crate) fn detach() -> io::Result<()> {
    // The file system of a working directory cannot be unmounted, so the keeper moves to `/`.
    std::env::set_current_dir("/")?;
    // In a session of its own the keeper gets neither Ctrl-C nor the hangup of the terminal.
    // The setsid of rustix would panic on gVisor, which returns 0 instead of the session's id.
    nix::unistd::setsid()?;
    Ok(())
}
