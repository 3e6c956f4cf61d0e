//! `portlease reserve`: starts a keeper, the process that holds the ports for a shell.

use serde::Serialize;

use crate::args::{PortSelection, ReserveArgs};
use crate::caller::calling_process;
use crate::exit;
use crate::failure::Failure;
use crate::keeper::start::start_keeper;
use crate::output::console::Console;
use crate::output::json::{JSON_VERSION, ReservedRow};
use crate::reserve_options::check_choice;

#[derive(Debug, Serialize)]
struct Answer<'a> {
    version: u8,
    keeper: u32,
    pid: u32,
    ports: &'a [ReservedRow],
}

pub(crate) fn reserve(console: &Console, args: &ReserveArgs) -> Result<u8, Failure> {
    let pid = match args.pid {
        Some(pid) => pid,
        None => calling_process()?,
    };
    if args.selection.port.is_none() {
        let further = match &args.selection {
            PortSelection { name: Some(_), .. } => Some("--name"),
            PortSelection { offsets, .. } if !offsets.is_empty() => Some("--offsets"),
            _ => None,
        };
        check_choice(&args.selection.shared.numbers, further)?;
    }
    args.format.check()?;
    let keeper = start_keeper(&args.selection, pid)?;
    for note in keeper.rows.iter().filter_map(ReservedRow::other_choice) {
        console.note(format_args!("reserved {note}"));
    }
    let read = if console.is_json() {
        let answer = Answer {
            version: JSON_VERSION,
            keeper: keeper.pid,
            pid,
            ports: &keeper.rows,
        };
        console.print_json(&answer)?
    } else {
        let numbers: Vec<u16> = keeper.rows.iter().map(|row| row.port).collect();
        args.format.append(&numbers)?;
        console.print_always(args.format.text(&numbers))?
    };
    if !read {
        return Err(Failure::new(
            "cannot print the ports, so they are not reserved: the reader has closed stdout",
        ));
    }
    console.detail(format_args!(
        "a keeper process (pid {}) holds the ports until pid {pid} ends",
        keeper.pid
    ));
    keeper.confirm()?;
    Ok(exit::YES)
}
