//! `portlease reserve`: starts a keeper, the process that holds the ports.

use serde::Serialize;

use crate::args::{HoldingProcess, PortSelection, ReserveArgs};
use crate::caller::{Caller, calling_process, job};
use crate::exit;
use crate::failure::Failure;
use crate::keeper::start::start_keeper;
use crate::output::annotations::in_github_actions;
use crate::output::console::Console;
use crate::output::json::{JSON_VERSION, ReservedRow};
use crate::reserve_options::check_choice;

#[derive(Debug, Serialize)]
struct Answer<'a> {
    version: u8,
    /// `null` if no keeper stays: a port server holds all ports for the process `pid`, or the time
    /// of `--for` is over.
    keeper: Option<u32>,
    /// `null` if the ports are held only for the time of `--for`, and not for a process.
    pid: Option<u32>,
    ports: &'a [ReservedRow],
}

pub(crate) fn reserve(console: &Console, args: &ReserveArgs) -> Result<u8, Failure> {
    let caller = match (args.pid, args.hold_for) {
        (None, None) => {
            // Without an exact port, the process that reads the number from stdout needs the port.
            // An ancestor with the same stdout does not read the number. So on Linux, if stdout is
            // a pipe or a file, `calling_process` passes over such ancestors. With an exact port,
            // the number is known, so it does not matter who reads stdout.
            Some(calling_process(args.selection.port.is_none())?)
        }
        _ => None,
    };
    let pid = match (args.pid, &caller) {
        (Some(HoldingProcess::Pid(pid)), _) => Some(pid),
        (Some(HoldingProcess::Job), _) => Some(job()?),
        (None, caller) => caller.as_ref().map(|caller| caller.pid),
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
    let limit = args.selection.shared.wait.unwrap_or_default();
    let keeper = console.while_waiting("busy ports to become free", limit, || {
        start_keeper(&args.selection, pid, args.hold_for)
    })?;
    for note in keeper.rows.iter().filter_map(ReservedRow::other_choice) {
        console.note(format_args!("reserved {note}"));
    }
    if let Some(note) = ReservedRow::unrecorded(&keeper.rows) {
        console.note(note);
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
    let ends = pid.map(|pid| format!("pid {pid} ends"));
    let passed = args.hold_for.map(|time| {
        let time = humantime::format_duration(time);
        format!("{time} have passed")
    });
    let until: Vec<String> = ends.into_iter().chain(passed).collect();
    let until = until.join(", or ");
    console.detail(match keeper.pid {
        Some(pid) => format!("a keeper process (pid {pid}) holds the ports until {until}"),
        None if args.hold_for.is_some_and(|time| time.is_zero()) => {
            "no keeper process holds the ports, because the time of --for has passed".to_owned()
        }
        None => format!("the port server of PORTSERVER_ADDRESS holds the ports until {until}"),
    });
    if let Some(caller) = caller {
        note_brief(console, &caller);
    }
    keeper.confirm()?;
    Ok(exit::YES)
}

/// If the reservation may end sooner than the caller expects, prints a note that says what ends it.
fn note_brief(console: &Console, caller: &Caller) {
    let Caller { pid, name, .. } = caller;
    if in_github_actions() {
        console.note(format_args!(
            "the reservation ends when pid {pid} ({name}) ends, and at the latest when this step \
             ends; to hold the ports until the job ends, pass --pid job"
        ));
    } else if caller.is_brief {
        console.note(format_args!(
            "the reservation ends when pid {pid} ({name}) ends; to hold the ports longer, name \
             another process with --pid, or a time with --for"
        ));
    }
}
