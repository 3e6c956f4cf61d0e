//! Helpers for tests of `reserve` and its keeper.

use std::process::{Child, Command};

use serde_json::Value;

#[cfg(any(target_os = "linux", windows))]
use crate::program::Ran;
use crate::program::{finish, idle, portlease};
use crate::support::Folder;
#[cfg(target_os = "linux")]
use crate::support::{DEADLINE, eventually};

pub(crate) fn command(folder: &Folder, args: &[&str]) -> Command {
    let mut command = portlease(args);
    command.env("PORTLEASE_DIR", folder.locks());
    command
}

/// A process for a keeper to hold ports for. Dropping the value kills it.
pub(crate) struct Sleeper(pub(crate) Child);

impl Sleeper {
    pub(crate) fn new() -> Sleeper {
        Sleeper(idle().spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

/// A process that has ended and is not reaped yet.
#[cfg(target_os = "linux")]
pub(crate) fn zombie() -> Sleeper {
    let mut zombie = Sleeper::new();
    zombie.0.kill().unwrap();
    eventually("a zombie", DEADLINE, || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", zombie.pid())).unwrap();
        match stat.contains(") Z ") {
            true => Ok(()),
            false => Err(stat),
        }
    });
    zombie
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // The process may have ended already.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

pub(crate) fn leases(folder: &Folder) -> Vec<Value> {
    let output = finish(&mut command(folder, &["list", "--json"]))
        .code(0)
        .json();
    output["leases"].as_array().unwrap().clone()
}

/// The pid of the keeper that holds a port.
#[cfg(target_os = "linux")]
pub(crate) fn keeper(folder: &Folder, port: u16) -> u32 {
    let leases = leases(folder);
    let lease = leases
        .iter()
        .find(|lease| lease["port"] == port)
        .unwrap_or_else(|| panic!("{leases:?}"));
    u32::try_from(lease["pid"].as_u64().unwrap()).unwrap()
}

/// Waits for the end of a process.
#[cfg(target_os = "linux")]
pub(crate) fn ends(pid: u32) {
    eventually(
        "the process ends",
        DEADLINE,
        || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            // An orphan stays a zombie until init reaps it.
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            _ => Ok(()),
        },
    );
}

#[cfg(any(target_os = "linux", windows))]
pub(crate) fn number(ran: &Ran) -> u16 {
    ran.out
        .strip_suffix('\n')
        .unwrap()
        .trim_end_matches('\r')
        .parse()
        .unwrap_or_else(|_| panic!("{ran:#?}"))
}
