//! Passes sockets on Unix: this process binds them, and a `pre_exec` hook of the command passes
//! them to the child.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;

use super::numbers::NewSocket;
use super::passed::{Passed, Style};
use super::registry::variables;
use super::shell::{self, CarriedVariables};
use crate::inspect::diagnose;
use crate::model::endpoint::Protocol;
use crate::model::error::{Error, Result};
use crate::model::port::Port;
use crate::reservation::Reservation;

/// The number of the first descriptor that systemd's protocol passes (sd_listen_fds(3)).
const FIRST_FD: i32 = 3;

pub(super) fn pass_systemd_style(reservation: &Reservation, command: &mut Command) -> Result<()> {
    let (mut passed, _) = earlier(command);
    let program_and_args: Vec<OsString> = match passed.style {
        Style::Shell { variables } => shell::unwrap(command, variables),
        Style::Chosen => std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(OsStr::to_owned)
            .collect(),
        Style::Wrapper => {
            return refuse(
                reservation,
                "another reservation was passed to this command with pass_to_wrapper: pass this \
                 reservation with pass_to_wrapper too",
            );
        }
    };
    if !can_copy_all_settings(command) {
        return refuse(
            reservation,
            "pass_to cannot copy some settings of the command (standard streams, user, process \
             group or env_clear): call pass_to first, then set them",
        );
    }
    let carried = CarriedVariables::of(command, &program_and_args[0])
        .or_else(|why| refuse(reservation, &why))?;
    passed.style = Style::Shell {
        variables: carried.len(),
    };
    add_systemd_sockets(&mut passed, reservation)?;
    passed
        .move_sources()
        .map_err(|e| cannot_pass(reservation, e))?;
    let mut wrapped = shell::wrap(&program_and_args, &carried, &passed);
    copy_settings(command, &mut wrapped);
    passed.inherit(&mut wrapped, 0);
    *command = wrapped;
    Ok(())
}

pub(super) fn pass_to_wrapper(reservation: &Reservation, command: &mut Command) -> Result<()> {
    let (mut passed, count) = earlier(command);
    if let Style::Shell { .. } = passed.style {
        return refuse(
            reservation,
            "another reservation was passed to this command with pass_to: pass this reservation \
             with pass_to too",
        );
    }
    passed.style = Style::Wrapper;
    add_systemd_sockets(&mut passed, reservation)?;
    let (names, number) = passed.names();
    command
        .env("LISTEN_FDS", number.to_string())
        .env("LISTEN_FDNAMES", names)
        .env_remove("LISTEN_PID");
    passed.inherit(command, count);
    Ok(())
}

pub(super) fn pass_as(reservation: &Reservation, command: &mut Command, fd: i32) -> Result<()> {
    if fd < 0 {
        let message = format!("descriptor {fd} is negative: choose a number from 0 on");
        let cause = io::Error::new(io::ErrorKind::InvalidInput, message);
        return Err(cannot_pass(reservation, cause));
    }
    let (mut passed, count) = earlier(command);
    let new = NewSocket {
        socket: bound_socket(reservation, reservation.protocols()[0], &passed)?,
        fd,
        name: None,
    };
    passed
        .add(vec![new])
        .map_err(|e| cannot_pass(reservation, e))?;
    passed.inherit(command, count);
    Ok(())
}

/// The sockets that earlier calls passed to the command, and how many they are.
fn earlier(command: &Command) -> (Passed, usize) {
    let (style, sockets) = match Passed::by(command) {
        Some(passed) => (passed.style, passed.sockets.clone()),
        None => (Style::Chosen, Vec::new()),
    };
    let count = sockets.len();
    (Passed { style, sockets }, count)
}

fn add_systemd_sockets(passed: &mut Passed, reservation: &Reservation) -> Result<()> {
    let (_, count) = passed.names();
    let mut sockets = Vec::new();
    for (fd, protocol) in (FIRST_FD + count as i32..).zip(reservation.protocols()) {
        sockets.push(NewSocket {
            socket: bound_socket(reservation, *protocol, passed)?,
            fd,
            name: Some(systemd_name(reservation)),
        });
    }
    passed.add(sockets).map_err(|e| cannot_pass(reservation, e))
}

fn bound_socket(reservation: &Reservation, protocol: Protocol, passed: &Passed) -> Result<OwnedFd> {
    let port = Port::new(reservation.port(), protocol);
    if passed.has(port) {
        return refuse(
            reservation,
            "an earlier call passed this port to the command already: pass each port once",
        );
    }
    let socket = match protocol {
        Protocol::Tcp => reservation.listen().map(OwnedFd::from),
        _ => reservation.udp_socket().map(OwnedFd::from),
    };
    socket.map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => {
            Error::cannot_pass_used(port, diagnose::in_use_despite(reservation, port))
        }
        _ => cannot_pass(reservation, e),
    })
}

pub(super) fn passes(command: &Command, reservation: &Reservation) -> bool {
    Passed::by(command).is_some_and(|passed| reservation.ports().any(|port| passed.has(port)))
}

fn refuse<T>(reservation: &Reservation, why: &str) -> Result<T> {
    Err(Error::cannot_pass(&reservation.operand(), why))
}

fn cannot_pass(reservation: &Reservation, cause: io::Error) -> Error {
    Error::of_system("pass", &reservation.operand(), cause)
}

/// The name of the socket in `LISTEN_FDNAMES`: the label, or the port number if there is no label.
/// `_` replaces every character except ASCII letters, digits, `.`, `_` and `-`, because a colon
/// separates names and the shell might interpret other characters.
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

fn copy_settings(from: &Command, to: &mut Command) {
    for (name, value) in variables(from) {
        match value {
            // An earlier `pass_to` set a marker variable for its shell. `wrap` has already set a
            // marker for the new shell, so the old variable is not copied.
            Some(_) if shell::is_marker(&name) => continue,
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
    if let Some(folder) = from.get_current_dir() {
        to.current_dir(folder);
    }
}

/// Whether the command has only settings that [`copy_settings`] copies. `Command` has no getters
/// for the other settings, such as the user, but its `Debug` form shows them. So this function
/// compares the `Debug` forms of the command and of a copy. It does not notice `pre_exec` hooks,
/// because the `Debug` form omits them.
fn can_copy_all_settings(command: &Command) -> bool {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        copy.current_dir(folder);
    }
    format!("{copy:#?}") == format!("{command:#?}")
}
