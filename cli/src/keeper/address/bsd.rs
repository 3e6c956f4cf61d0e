//! macOS and the BSDs: a socket file in the lock folder. The keeper removes it when it ends. A
//! killed keeper leaves it, and no process listens on it then.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::unistd::getpeereid;
use rustix::net::{SocketAddrUnix, connect};

use crate::keeper::address::new_name;

/// The bound socket of a keeper.
#[derive(Debug)]
pub(crate) struct Bound(pub(crate) UnixListener, PathBuf);

impl Bound {
    pub(crate) fn new(keeper: u32) -> io::Result<Bound> {
        let path = folder().join(new_name(&prefix(keeper)));
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
pub(crate) struct Address(PathBuf);

impl Address {
    pub(crate) fn connect(&self, socket: impl AsFd) -> rustix::io::Result<()> {
        connect(socket, &SocketAddrUnix::new(&self.0)?)
    }
}

/// All socket files of the keeper with this id. Any process can make a file of this form, so the
/// caller must check which user answers.
pub(crate) fn release_addresses(keeper: u32) -> io::Result<Vec<Address>> {
    let prefix = prefix(keeper);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(Address(entry.path()));
        }
    }
    Ok(found)
}

/// The lock folder. The keeper has reserved a port before it binds, so the folder exists.
fn folder() -> PathBuf {
    std::env::var_os("PORTLEASE_DIR").map_or("/tmp/portlease".into(), PathBuf::from)
}

/// sockaddr_un has room for 104 bytes, so the name is short.
fn prefix(keeper: u32) -> String {
    format!("keeper-{keeper}-")
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

    /// Always `false`: getpeereid(3) does not show the process.
    pub(crate) fn is_process(&self, _pid: u32) -> bool {
        false
    }
}
