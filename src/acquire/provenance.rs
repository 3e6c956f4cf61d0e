//! What the record of a reservation says about its process and its test.

use std::num::NonZeroU64;
use std::time::{SystemTime, UNIX_EPOCH};

use once_cell::sync::OnceCell;

use super::Request;
use crate::model::lease_info::{Beneficiary, Record};
use crate::sockets;

/// The record of a request; each protocol adds its claim.
pub(super) fn record(request: &Request) -> Record {
    static PROCESS: OnceCell<(Option<NonZeroU64>, String)> = OnceCell::new();
    let pid = std::process::id();
    let (started, program) = PROCESS.get_or_init(|| {
        let program = std::env::current_exe().map(|path| path.to_string_lossy().into_owned());
        (sockets::started(pid), program.unwrap_or_default())
    });
    Record {
        pid,
        started: *started,
        program: program.clone(),
        test: test_name(),
        at: format!("{}:{}", request.at.file(), request.at.line()),
        label: request.label.clone().unwrap_or_default(),
        since: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
        socket: None,
        on_behalf_of: request.on_behalf_of.and_then(beneficiary),
    }
}

/// `None` for a process that does not exist.
fn beneficiary(pid: u32) -> Option<Beneficiary> {
    let started = Some(sockets::started(pid)?);
    Some(Beneficiary { pid, started })
}

/// The name of the thread, which libtest names after the test, or nextest's variable; empty outside
/// of a test.
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
