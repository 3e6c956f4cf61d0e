//! macOS and the BSDs: the socket file of a keeper (a process that holds ports) in the lock folder.
//! A keeper removes its own file when it stops holding ports. When a keeper starts, it removes the
//! files of killed keepers.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::unistd::{geteuid, getpeereid};
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, connect};
use rustix::process::{Pid, test_kill_process};

use crate::keeper::address::new_name;

/// The start of the name of each socket file. The pid of the keeper and random digits follow.
const PREFIX: &str = "keeper-";
/// The end of the name if the keeper holds a port whose record could not be written.
const UNRECORDED: &str = "-u";

/// The bound socket of a keeper.
#[derive(Debug)]
pub(crate) struct Bound(pub(crate) UnixListener, PathBuf);

impl Bound {
    pub(crate) fn new(keeper: u32, has_unrecorded: bool) -> io::Result<Bound> {
        remove_stale()?;
        let unrecorded = if has_unrecorded { UNRECORDED } else { "" };
        let name = new_name(&prefix(keeper));
        let path = folder().join(format!("{name}{unrecorded}"));
        Ok(Bound(UnixListener::bind(&path)?, path))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // The call fails if another process has already removed the file.
        let _removed = std::fs::remove_file(&self.1);
    }
}

#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) keeper: u32,
    /// Whether the keeper (a process that holds ports) has a port that no lock file records.
    /// `release` and `list` ask every keeper for which this is `true`.
    pub(crate) has_unrecorded: bool,
    path: PathBuf,
}

impl Address {
    pub(crate) fn connect(&self, socket: impl AsFd) -> rustix::io::Result<()> {
        connect(socket, &SocketAddrUnix::new(&self.path)?)
    }
}

/// The socket files of all keepers (processes that hold ports). Any process can make a file of this
/// form, so the caller must check which user answers.
pub(crate) fn all_addresses() -> io::Result<Vec<Address>> {
    let mut found = Vec::new();
    let folder = match std::fs::read_dir(folder()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        folder => folder?,
    };
    for entry in folder {
        let entry = entry?;
        let name = entry.file_name();
        let address = name.to_str().and_then(|name| {
            let (keeper, random) = name.strip_prefix(PREFIX)?.split_once('-')?;
            Some(Address {
                keeper: keeper.parse().ok()?,
                has_unrecorded: random.ends_with(UNRECORDED),
                path: entry.path(),
            })
        });
        found.extend(address);
    }
    Ok(found)
}

/// Removes the socket files of keepers that were killed. If another process now has the pid of a
/// killed keeper, the socket file of that keeper stays.
fn remove_stale() -> io::Result<()> {
    for entry in std::fs::read_dir(folder())? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| {
            let (pid, _) = rest.split_once('-')?;
            Pid::from_raw(pid.parse().ok()?)
        });
        if pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH)) {
            // The call usually fails for the file of another user. The next keeper of that user
            // removes the file.
            let _removed = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// The lock folder. It exists when a keeper binds its socket: the keeper itself or `portlease
/// serve` has reserved a port by then, and a reservation creates the folder if it is missing.
fn folder() -> PathBuf {
    let named = std::env::var_os("PORTLEASE_DIR").filter(|folder| !folder.is_empty());
    named.map_or("/tmp/portlease".into(), PathBuf::from)
}

/// sockaddr_un has room for 104 bytes, so the name is short.
fn prefix(keeper: u32) -> String {
    format!("{PREFIX}{keeper}-")
}

/// The process at the other end of a socket.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
}

impl Peer {
    pub(crate) fn of(socket: &impl AsFd) -> io::Result<Peer> {
        let (uid, _) = getpeereid(socket)?;
        Ok(Peer { uid: uid.as_raw() })
    }

    /// This process.
    pub(crate) fn own() -> io::Result<Peer> {
        Ok(Peer {
            uid: geteuid().as_raw(),
        })
    }

    /// Always `false`: getpeereid(3) does not show the process.
    pub(crate) fn is_process(&self, _pid: u32) -> bool {
        false
    }
}
