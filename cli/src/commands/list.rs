//! `portlease list`: lists the live reservations on this machine.

use std::time::{Duration, SystemTime};

use portlease::{Lease, reservations};
use serde::Serialize;

use crate::exit;
use crate::failure::Failure;
use crate::output::console::Console;
use crate::output::json::{JSON_VERSION, LeaseRow};
use crate::output::table::Table;

#[derive(Debug, Serialize)]
struct Answer {
    version: u8,
    leases: Vec<LeaseRow>,
}

pub(crate) fn list(console: &Console) -> Result<u8, Failure> {
    let leases = reservations()?;
    if console.is_json() {
        console.print_json(&Answer {
            version: JSON_VERSION,
            leases: leases.iter().map(LeaseRow::from).collect(),
        })?;
    } else if leases.is_empty() {
        console.note("no port is reserved");
    } else {
        let now = SystemTime::now();
        let mut table = Table::new([
            "PORT", "PROTOCOL", "PID", "PROGRAM", "TEST", "AT", "LABEL", "NAME", "AGE",
        ]);
        for lease in &leases {
            table.row(cells(lease, now));
        }
        console.answer(table)?;
    }
    Ok(exit::YES)
}

fn cells(lease: &Lease, now: SystemTime) -> [String; 9] {
    let text = |value: Option<&str>| value.unwrap_or("-").to_owned();
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    // If the clock was set back after the reservation, `since` lies in the future, and the age is
    // unknown.
    let age = lease
        .since()
        .and_then(|since| now.duration_since(since).ok());
    [
        lease.port().to_string(),
        lease.protocol().to_string(),
        lease.pid().map_or("-".to_owned(), |pid| pid.to_string()),
        lease.program().map_or("-".to_owned(), name),
        text(lease.test()),
        text(lease.at()),
        text(lease.label()),
        name_of(lease),
        age.map_or("-".to_owned(), |age| {
            humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
        }),
    ]
}

/// The stable name, and the number that it stands for if the lease has another one.
fn name_of(lease: &Lease) -> String {
    match (lease.name(), lease.first_choice()) {
        (Some(name), Some(first)) if first != lease.port() => format!("{name} (not {first})"),
        (name, _) => name.unwrap_or("-").to_owned(),
    }
}
