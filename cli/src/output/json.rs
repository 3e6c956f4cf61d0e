//! The objects of the JSON output. Within a version, fields are only added, never renamed or
//! removed.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use portlease::{
    Guarantee, Holder, Lease, Owner, Process, ProcessState, Protocol, Relation, Reservation,
};
use serde::{Deserialize, Serialize};

/// The value of `version` in every top-level object.
pub(crate) const JSON_VERSION: u8 = 1;

/// One socket, with the processes that own it.
#[derive(Debug, Serialize)]
pub(crate) struct HolderRow {
    protocol: &'static str,
    local: String,
    remote: Option<String>,
    state: String,
    uid: Option<u32>,
    user: Option<String>,
    hidden: bool,
    client: bool,
    interface: Option<String>,
    shared: bool,
    owner: &'static str,
    processes: Vec<ProcessRow>,
}

impl HolderRow {
    pub(crate) fn new(holder: &Holder, with_command_lines: bool) -> Self {
        HolderRow {
            protocol: holder.protocol.as_str(),
            local: holder.local.to_string(),
            remote: holder.remote.map(|remote| remote.to_string()),
            state: holder.state.name(),
            uid: holder.uid,
            user: holder.user.clone(),
            hidden: holder.hidden,
            client: holder.client,
            interface: holder.interface.clone(),
            shared: holder.shared,
            owner: match holder.owner() {
                Owner::Processes => "processes",
                Owner::Unowned => "unowned",
                Owner::Hidden => "hidden",
                Owner::Elsewhere => "elsewhere",
                Owner::None => "none",
                _ => "unknown",
            },
            processes: holder
                .processes
                .iter()
                .map(|p| ProcessRow::new(p, with_command_lines))
                .collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct ProcessRow {
    pid: u32,
    name: String,
    program: Option<String>,
    parent: Option<u32>,
    uid: Option<u32>,
    user: Option<String>,
    /// The time of the start, in RFC 3339.
    started: Option<String>,
    state: &'static str,
    ignores_sigterm: bool,
    working_directory: Option<String>,
    unit: Option<String>,
    container: Option<String>,
    relation: Option<&'static str>,
    /// The field is absent without `--command-line`, and null if the command line cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    command_line: Option<Option<Vec<String>>>,
}

impl ProcessRow {
    fn new(process: &Process, with_command_line: bool) -> Self {
        let text = |arg: std::ffi::OsString| arg.to_string_lossy().into_owned();
        let command_line = || {
            process
                .command_line()
                .ok()
                .map(|line| line.into_iter().map(text).collect())
        };
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        ProcessRow {
            pid: process.pid,
            name: process.name.clone(),
            program: process.program.as_ref().map(path),
            parent: process.parent,
            uid: process.uid,
            user: process.user.clone(),
            started: process.started.and_then(utc),
            state: match process.state {
                ProcessState::Running => "running",
                ProcessState::Suspended => "suspended",
                ProcessState::Traced => "traced",
                ProcessState::Frozen => "frozen",
                ProcessState::DumpingCore => "dumping_core",
                ProcessState::Zombie => "zombie",
                _ => "unknown",
            },
            ignores_sigterm: process.ignores_sigterm,
            working_directory: process.working_directory.as_ref().map(path),
            unit: process.unit.clone(),
            container: process.container.clone(),
            relation: process.relation.map(|relation| match relation {
                Relation::ThisProcess => "self",
                Relation::Ancestor => "ancestor",
                Relation::Descendant => "descendant",
                _ => "unknown",
            }),
            command_line: with_command_line.then(command_line),
        }
    }
}

/// One reservation, of any process that uses the same network namespace and lock folder.
#[derive(Debug, Serialize)]
pub(crate) struct LeaseRow {
    protocol: &'static str,
    port: u16,
    pid: Option<u32>,
    /// Whether `pid` and `on_behalf_of` belong to another pid namespace.
    foreign: bool,
    /// The processes that still hold the reservation after the process `pid` has ended. They are
    /// usually forked children. If the reservation has no record, the list has all visible
    /// processes that hold the reservation.
    inherited_by: Vec<u32>,
    on_behalf_of: Option<u32>,
    /// The name of the process `on_behalf_of`.
    on_behalf_of_name: Option<String>,
    /// The program of the process `pid`.
    program: Option<String>,
    /// The command that runs under the process `pid`.
    command: Option<String>,
    working_directory: Option<String>,
    test: Option<String>,
    at: Option<String>,
    label: Option<String>,
    name: Option<String>,
    first_choice: Option<u16>,
    since: Option<String>,
}

impl LeaseRow {
    /// A port that no lock file records, and that a keeper (a process of `reserve`) holds.
    pub(crate) fn unrecorded(port: u16, protocol: Protocol, keeper: u32) -> Self {
        LeaseRow {
            protocol: protocol.as_str(),
            port,
            pid: Some(keeper),
            foreign: false,
            inherited_by: Vec::new(),
            on_behalf_of: None,
            on_behalf_of_name: None,
            program: None,
            command: None,
            working_directory: None,
            test: None,
            at: None,
            label: None,
            name: None,
            first_choice: None,
            since: None,
        }
    }
}

impl From<&Lease> for LeaseRow {
    fn from(lease: &Lease) -> Self {
        let name = || lease.command().map(str::to_owned);
        let beneficiary = lease.on_behalf_of();
        LeaseRow {
            protocol: lease.protocol().as_str(),
            port: lease.port(),
            pid: lease.pid(),
            foreign: lease.is_foreign(),
            inherited_by: lease.inherited_by().iter().map(|heir| heir.pid).collect(),
            on_behalf_of: beneficiary,
            on_behalf_of_name: beneficiary.and_then(|_| name()),
            program: lease.program().map(str::to_owned),
            command: command_of(lease).map(str::to_owned),
            working_directory: lease.working_directory().map(str::to_owned),
            test: lease.test().map(str::to_owned),
            at: lease.at().map(str::to_owned),
            label: lease.label().map(str::to_owned),
            name: lease.name().map(str::to_owned),
            first_choice: lease.first_choice(),
            since: lease.since().and_then(utc),
        }
    }
}

/// The command that runs under the reservation, if the record has one. A port can be reserved on
/// behalf of another process, for example by `portlease reserve`. [`Lease::command`] is then the
/// name of the other process, so this function returns `None`.
pub(crate) fn command_of(lease: &Lease) -> Option<&str> {
    lease.command().filter(|_| lease.on_behalf_of().is_none())
}

/// The time in RFC 3339. `None` for two kinds of times:
///
/// - A time before 1970. A process can have started before the clock of the machine was set.
/// - A time after the year 9999. A forged lock file can contain one.
fn utc(time: SystemTime) -> Option<String> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let mut text = String::new();
    write!(text, "{}", humantime::format_rfc3339_seconds(time)).ok()?;
    Some(text)
}

/// A port that `run` or a keeper (a process of `reserve`) has reserved, directly or through a port
/// server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReservedRow {
    pub(crate) port: u16,
    protocols: Vec<String>,
    guarantee: String,
    /// The number that a stable name stands for. `port` differs if that number was not available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_choice: Option<u16>,
    /// Why the reservation has no record. Absent if there is a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease_error: Option<String>,
}

impl ReservedRow {
    /// Names the ports whose reservations have no record, and the cause for the first of them.
    /// `None` if every reservation has a record.
    pub(crate) fn unrecorded<'a>(rows: impl IntoIterator<Item = &'a Self>) -> Option<String> {
        let failed = rows.into_iter().filter(|row| row.lease_error.is_some());
        let failed: Vec<&Self> = failed.collect();
        let error = failed.first()?.lease_error.as_ref()?;
        let ports: Vec<String> = failed.iter().map(|row| row.port.to_string()).collect();
        let pronoun = if ports.len() == 1 { "it" } else { "them" };
        Some(format!(
            "the reservation of {} is not recorded: {error}; `portlease who` does not show who \
             reserved {pronoun}",
            ports.join(", ")
        ))
    }

    /// Explains why the reserved number is not the first choice of the stable name. Returns `None`
    /// if it is the first choice, or if there is no stable name.
    pub(crate) fn other_choice(&self) -> Option<String> {
        let first = self.first_choice.filter(|first| *first != self.port)?;
        Some(format!(
            "{} instead of {first}: {first} is the usual number of this name, but cannot be \
             reserved",
            self.port
        ))
    }
}

impl ReservedRow {
    /// A port that `portlease serve` has reserved for a process.
    pub(crate) fn granted(port: u16) -> Self {
        ReservedRow {
            port,
            protocols: vec!["tcp".to_owned(), "udp".to_owned()],
            guarantee: "cooperative".to_owned(),
            first_choice: None,
            lease_error: None,
        }
    }
}

impl From<&Reservation> for ReservedRow {
    fn from(reservation: &Reservation) -> Self {
        ReservedRow {
            port: reservation.port(),
            protocols: reservation
                .protocols()
                .iter()
                .map(ToString::to_string)
                .collect(),
            guarantee: match reservation.guarantee() {
                Guarantee::Kernel => "kernel",
                Guarantee::Cooperative => "cooperative",
                _ => "best_effort",
            }
            .to_owned(),
            first_choice: reservation.first_choice(),
            lease_error: reservation.lease_error().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_time_is_printed_in_utc_and_one_outside_the_calendar_is_none() {
        let at = |secs| UNIX_EPOCH.checked_add(Duration::from_secs(secs));
        let text = at(1_769_860_800).and_then(utc);
        assert_eq!(text.as_deref(), Some("2026-01-31T12:00:00Z"));
        // On Windows, a `SystemTime` cannot be that late.
        assert!(cfg!(windows) || at(u64::MAX / 4).is_some());
        assert_eq!(at(u64::MAX / 4).and_then(utc), None);
        assert_eq!(utc(UNIX_EPOCH - Duration::from_secs(1)), None);
    }
}
