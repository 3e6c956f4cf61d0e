//! Systems other than Unix, on which this crate passes no sockets.

use std::io;
use std::process::Command;

use crate::model::error::{Error, Result};
use crate::reservation::Reservation;

pub(super) fn pass_systemd_style(reservation: &Reservation, _command: &mut Command) -> Result<()> {
    unsupported(reservation)
}

pub(super) fn pass_to_wrapper(reservation: &Reservation, _command: &mut Command) -> Result<()> {
    unsupported(reservation)
}

pub(super) fn pass_as(reservation: &Reservation, _command: &mut Command, _fd: i32) -> Result<()> {
    unsupported(reservation)
}

pub(super) fn passes(_command: &Command, _reservation: &Reservation) -> bool {
    false
}

fn unsupported(reservation: &Reservation) -> Result<()> {
    let cause = io::Error::new(
        io::ErrorKind::Unsupported,
        "this crate passes sockets to child processes on Unix only",
    );
    Err(Error::of_system("pass", &reservation.operand(), cause))
}
