//! What the record of a reservation says about the process and the test that made it.

use std::io;
use std::num::NonZeroU64;
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use once_cell::sync::OnceCell;
use parking_lot::Mutex;

use super::Request;
use crate::model::record::{Beneficiary, Record};
use crate::process_id::ProcessId;
use crate::sockets;

/// The record of a reservation for this request. Later, `ProtocolReservation::publish` adds the
/// inode of the claim (the bound socket of the reservation).
///
/// Fails if the start time of this process or of the `on_behalf_of` process cannot be read because
/// descriptors or memory are lacking. A child process needs the start time to recognize that the
/// port belongs to its parent.
pub(super) fn record(request: &Request) -> io::Result<Record> {
    let process = this_process()?;
    // `portlease run` and similar callers pass the command that they run. A source line in the code
    // of the caller would not help the reader of a report.
    let at = match &request.command {
        Some(_) => String::new(),
        None => source_line(request.at),
    };
    let folder = std::env::current_dir().unwrap_or_default();
    Ok(Record {
        pid: process.id.pid(),
        started: process.started,
        program: process.program.clone(),
        test: test_name(),
        at,
        label: request.label.clone().unwrap_or_default(),
        command: request.command.clone().unwrap_or_default(),
        working_directory: folder.to_string_lossy().into_owned(),
        since: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
        socket: None,
        pid_namespace: process.pid_namespace,
        on_behalf_of: match request.on_behalf_of {
            Some(pid) => beneficiary(pid)?,
            None => None,
        },
        name: request.stable_name(),
    })
}

/// The caller's source line, or an empty text if it is unknown.
///
/// For a function passed as a value, as in `LazyLock::new(reserve_port)`, the compiler reports a
/// line of this crate or of the standard library. Such a line counts as unknown.
fn source_line(at: &Location<'_>) -> String {
    let file = Path::new(at.file());
    let own_folder = Path::new(file!()).ancestors().nth(2);
    let is_own = own_folder.is_some_and(|folder| file.starts_with(folder));
    if is_own || file.ends_with("library/core/src/ops/function.rs") {
        return String::new();
    }
    format!("{}:{}", at.file(), at.line())
}

/// What records say about this process.
struct ThisProcess {
    id: ProcessId,
    started: Option<NonZeroU64>,
    program: String,
    pid_namespace: Option<NonZeroU64>,
}

/// The cached value is valid for one process. A forked child reads the values again, because it is
/// another process.
fn this_process() -> io::Result<Arc<ThisProcess>> {
    static KNOWN: Mutex<Option<Arc<ThisProcess>>> = Mutex::new(None);
    let id = ProcessId::current();
    let mut known = KNOWN.lock();
    if let Some(process) = known.as_ref().filter(|process| process.id == id) {
        return Ok(process.clone());
    }
    let program = std::env::current_exe().map(|path| path.to_string_lossy().into_owned());
    let process = ThisProcess {
        id,
        started: sockets::started(id.pid())?,
        program: program.unwrap_or_default(),
        pid_namespace: id.namespace(),
    };
    Ok(known.insert(Arc::new(process)).clone())
}

/// Returns `None` if no process has this pid, or if the system does not show its start time. Fails
/// if descriptors or memory are lacking.
fn beneficiary(pid: u32) -> io::Result<Option<Beneficiary>> {
    let started = sockets::started(pid)?;
    Ok(started.is_some().then_some(Beneficiary { pid, started }))
}

/// Returns the name of the calling thread, because libtest runs each test on a thread with the name
/// of the test. For the main thread and unnamed threads, returns the value of `NEXTEST_TEST_NAME`,
/// or an empty text without that variable.
fn test_name() -> String {
    static NEXTEST: OnceCell<String> = OnceCell::new();
    let thread = std::thread::current();
    match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => NEXTEST
            .get_or_init(|| std::env::var("NEXTEST_TEST_NAME").unwrap_or_default())
            .clone(),
    }
}
