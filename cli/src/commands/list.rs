//! `portlease list`: lists the live reservations on this machine.

use std::path::Path;
use std::time::{Duration, SystemTime};

use portlease::{Lease, Protocol, reservations};
use serde::Serialize;

use crate::exit;
use crate::failure::Failure;
use crate::keeper::release::unrecorded_ports;
use crate::output::console::Console;
use crate::output::json::{JSON_VERSION, LeaseRow, command_of};
use crate::output::report;
use crate::output::table::Table;
use crate::process;

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    leases: Vec<LeaseRow>,
    complete: bool,
    unseen: Vec<String>,
}

pub(crate) fn list(console: &Console) -> Result<u8, Failure> {
    let mut unseen: Vec<Failure> = Vec::new();
    let leases = match reservations() {
        Ok(leases) => leases,
        Err(error) if is_misconfigured() => return Err(error.into()),
        // If the lock files cannot be read, `list` still shows the ports that no lock file records.
        // The keepers (the processes that hold these ports) report them.
        Err(error) => {
            unseen.push(error.into());
            Vec::new()
        }
    };
    let unrecorded = unrecorded_ports().unwrap_or_else(|failure| {
        unseen.push(failure);
        Vec::new()
    });
    let unrecorded = unrecorded.into_iter().filter_map(|(port, keeper)| {
        let protocol = port.protocol?;
        Some((port.port, protocol, keeper))
    });
    let unrecorded: Vec<(u16, Protocol, u32)> = unrecorded.collect();
    let is_empty = leases.is_empty() && unrecorded.is_empty();
    if console.is_json() {
        let mut rows: Vec<LeaseRow> = leases.iter().map(LeaseRow::from).collect();
        rows.extend(
            unrecorded
                .iter()
                .map(|(port, protocol, keeper)| LeaseRow::unrecorded(*port, *protocol, *keeper)),
        );
        console.print_json(&Answer {
            version: JSON_VERSION,
            leases: rows,
            complete: unseen.is_empty(),
            unseen: unseen.iter().map(report::failure).collect(),
        })?;
    } else if is_empty {
        match unseen.is_empty() {
            true => console.note("no reservation was found"),
            false => console.note("no reservation was found, but the search was incomplete"),
        }
    } else {
        let now = SystemTime::now();
        let mut table = Table::new([
            "PORT",
            "PROTOCOL",
            "PID",
            "COMMAND",
            "FOR",
            "DIRECTORY",
            "TEST",
            "AT",
            "LABEL",
            "NAME",
            "AGE",
        ]);
        for lease in &leases {
            table.row(cells(lease, now));
        }
        for (port, protocol, keeper) in &unrecorded {
            table.row(unrecorded_cells(*port, *protocol, *keeper));
        }
        console.answer(table)?;
    }
    if !console.is_json() {
        unseen.iter().for_each(|failure| console.error(failure));
    }
    Ok(match is_empty && !unseen.is_empty() {
        true => exit::INCOMPLETE,
        false => exit::YES,
    })
}

/// Returns `true` if `PORTLEASE_DIR` is empty, a relative path, or a symbolic link that leads
/// nowhere. The library rejects all three.
fn is_misconfigured() -> bool {
    let folder = std::env::var_os("PORTLEASE_DIR");
    folder.is_some_and(|folder| {
        let folder = Path::new(&folder);
        !folder.is_absolute() || folder.is_symlink() && folder.canonicalize().is_err()
    })
}

fn cells(lease: &Lease, now: SystemTime) -> [String; 11] {
    let text = |value: Option<&str>| value.unwrap_or("-").to_owned();
    let program = lease.program().map(|path| {
        let name = Path::new(path).file_name();
        name.map_or(path.to_owned(), |name| name.to_string_lossy().into_owned())
    });
    // If the clock was set back after the reservation, `since` lies in the future, and the age is
    // unknown.
    let age = lease
        .since()
        .and_then(|since| now.duration_since(since).ok());
    [
        lease.port().to_string(),
        lease.protocol().to_string(),
        pids(lease),
        command_of(lease)
            .map(str::to_owned)
            .or(program)
            .unwrap_or("-".to_owned()),
        beneficiary(lease),
        text(lease.working_directory()),
        text(lease.test()),
        text(lease.at()),
        text(lease.label()),
        name_of(lease),
        age.map_or("-".to_owned(), |age| {
            humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
        }),
    ]
}

/// The row of a port that no lock file records. Only its keeper (the process that holds it) knows
/// the port.
fn unrecorded_cells(port: u16, protocol: Protocol, keeper: u32) -> [String; 11] {
    let known = [
        port.to_string(),
        protocol.to_string(),
        keeper.to_string(),
        process::name(keeper),
    ];
    std::array::from_fn(|n| known.get(n).cloned().unwrap_or_else(|| "-".to_owned()))
}

/// The pid of the process that reserved the port. If that process has ended, the pids of the
/// visible processes that still hold the port come first.
fn pids(lease: &Lease) -> String {
    let heirs = lease.inherited_by().iter().map(|heir| heir.pid.to_string());
    match (lease.pid(), heirs.collect::<Vec<_>>().join(", ")) {
        (Some(ended), heirs) if !heirs.is_empty() => {
            format!("{heirs} (inherited from {ended}, which ended)")
        }
        // Parentheses mark a pid of another pid namespace. In this namespace, another process or
        // none has that pid.
        (Some(pid), _) if lease.is_foreign() => format!("({pid})"),
        (Some(pid), _) => pid.to_string(),
        (None, _) => "-".to_owned(),
    }
}

/// The process for which another process reserved the port. The other process is, for example,
/// `portlease serve` or a keeper (a process that holds ports for `portlease reserve`).
fn beneficiary(lease: &Lease) -> String {
    let Some(pid) = lease.on_behalf_of() else {
        return "-".to_owned();
    };
    // As in `pids`, parentheses mark a pid of another pid namespace.
    let pid = if lease.is_foreign() {
        format!("({pid})")
    } else {
        pid.to_string()
    };
    match lease.command() {
        Some(name) => format!("{pid} {name}"),
        None => pid,
    }
}

/// The stable name of the lease. If the port is not the first choice N of the name, `(not N)`
/// follows.
fn name_of(lease: &Lease) -> String {
    match (lease.name(), lease.first_choice()) {
        (Some(name), Some(first)) if first != lease.port() => format!("{name} (not {first})"),
        (name, _) => name.unwrap_or("-").to_owned(),
    }
}
