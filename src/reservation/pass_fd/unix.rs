//! Unix: the sockets are opened here, and a hook of the command gives them to the child.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::fcntl_dupfd_cloexec;

use super::ffi::inherit;
use crate::model::endpoint::Protocol;
use crate::model::error::{Error, Result};
use crate::reservation::Reservation;

/// The first descriptor that systemd's protocol passes (sd_listen_fds(3)).
const FIRST_FD: i32 = 3;

/// A socket that a command passes to its children.
#[derive(Clone, Debug)]
pub(super) struct PassedSocket {
    pub(super) socket: Arc<OwnedFd>,
    /// The descriptor number in the child.
    pub(super) fd: i32,
    name: String,
}

/// The sockets of each command that [`pass_systemd_style`] made, by the token in its arguments: a
/// second call for the command adds to them.
static PASSED: Mutex<Vec<(u64, Weak<Vec<PassedSocket>>)>> = Mutex::new(Vec::new());

const SHELL: &str = "/bin/sh";

/// How the argument with the token starts.
const TOKEN_PREFIX: &str = "portlease-";

/// The arguments before those of the program: `-c`, the script and the token.
const SHELL_ARGS: usize = 3;

pub(super) fn pass_systemd_style(reservation: &Reservation, command: &mut Command) -> Result<()> {
    let name = systemd_name(reservation);
    let mut sockets = already_passed(command)
        .map(|passed| passed.to_vec())
        .unwrap_or_default();
    let is_wrapped = !sockets.is_empty();
    for protocol in reservation.protocols() {
        sockets.push(PassedSocket {
            socket: Arc::new(bound_socket(reservation, *protocol)?),
            fd: FIRST_FD + sockets.len() as i32,
            name: name.clone(),
        });
    }
    // Above all numbers that the child uses: a dup2(2) to one number must not replace a socket that
    // is yet to be passed.
    let above = FIRST_FD + sockets.len() as i32;
    for passed in &mut sockets {
        let moved = fcntl_dupfd_cloexec(passed.socket.as_fd(), above);
        passed.socket = Arc::new(moved.map_err(|e| cannot_pass(reservation, e.into()))?);
    }
    let program_and_args: Vec<&OsStr> = if is_wrapped {
        command.get_args().skip(SHELL_ARGS).collect()
    } else {
        std::iter::once(command.get_program())
            .chain(command.get_args())
            .collect()
    };
    let token = fastrand::u64(..);
    let mut wrapped = Command::new(SHELL);
    wrapped
        .arg("-c")
        .arg(script(&sockets))
        .arg(format!("{TOKEN_PREFIX}{token}"))
        .args(program_and_args);
    copy_settings(command, &mut wrapped);
    if !can_copy_all_settings(command) {
        return Err(Error::cannot_pass(&reservation.operand()));
    }
    let sockets = Arc::new(sockets);
    let mut passed = PASSED.lock();
    passed.retain(|(_, sockets)| sockets.strong_count() > 0);
    passed.push((token, Arc::downgrade(&sockets)));
    inherit(&mut wrapped, sockets);
    *command = wrapped;
    Ok(())
}

pub(super) fn pass_as(reservation: &Reservation, command: &mut Command, fd: i32) -> Result<()> {
    if fd < 0 {
        return Err(cannot_pass(reservation, rustix::io::Errno::BADF.into()));
    }
    let socket = PassedSocket {
        socket: Arc::new(bound_socket(reservation, reservation.protocols()[0])?),
        fd,
        name: systemd_name(reservation),
    };
    inherit(command, Arc::new(vec![socket]));
    Ok(())
}

fn bound_socket(reservation: &Reservation, protocol: Protocol) -> Result<OwnedFd> {
    let socket = match protocol {
        Protocol::Tcp => reservation.listen().map(OwnedFd::from),
        _ => reservation.udp_socket().map(OwnedFd::from),
    };
    socket.map_err(|e| cannot_pass(reservation, e))
}

fn cannot_pass(reservation: &Reservation, cause: io::Error) -> Error {
    Error::of_system("pass", &reservation.operand(), cause)
}

/// The label or the number, without characters that the shell interprets, and without the colon,
/// which separates names.
fn systemd_name(reservation: &Reservation) -> String {
    let name = reservation
        .label()
        .map_or_else(|| reservation.port().to_string(), str::to_owned);
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}

/// The shell's `exec` keeps the process id, so `$$` is also the program's.
fn script(sockets: &[PassedSocket]) -> String {
    let names: Vec<&str> = sockets.iter().map(|passed| passed.name.as_str()).collect();
    let (count, names) = (sockets.len(), names.join(":"));
    format!("export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}; exec \"$@\"")
}

/// The sockets that the command passes already, if an earlier call made it.
fn already_passed(command: &Command) -> Option<Arc<Vec<PassedSocket>>> {
    if command.get_program() != SHELL {
        return None;
    }
    let token = command.get_args().nth(SHELL_ARGS - 1)?.to_str()?;
    let token: u64 = token.strip_prefix(TOKEN_PREFIX)?.parse().ok()?;
    let passed = PASSED.lock();
    let (_, sockets) = passed.iter().find(|(known, _)| *known == token)?;
    sockets.upgrade()
}

fn copy_settings(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
    if let Some(folder) = from.get_current_dir() {
        to.current_dir(folder);
    }
}

/// Whether [`copy_settings`] copies every setting of the command. `Command` has no getter for the
/// others, but its `Debug` form shows them.
fn can_copy_all_settings(command: &Command) -> bool {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    copy_settings(command, &mut copy);
    format!("{copy:#?}") == format!("{command:#?}")
}
