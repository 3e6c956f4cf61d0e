//! [`ListenWait`]: the wait of `run` until its command listens, and the reports on a failed wait.

use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use portlease::{Diagnosis, Endpoint, Remedy, State};

use crate::command_end::End;
use crate::failure::{self, Failure};
use crate::finding::has_server;
use crate::inherited_sockets::InheritedSockets;
use crate::limits::LISTEN_REPORT;
use crate::output::console::Console;
use crate::output::remedy::{self, Asked};
use crate::output::report;
use crate::process_stat::{ProcessStat, unseen_owner_note};
use crate::process_tree::end_tree;

const AFTER_WAIT: Asked = Asked {
    waited: true,
    no_reuse_addr: false,
    reserves: false,
    lacks_leaks: false,
};

/// A wait in another thread, until the command listens on all ports and answers the requests of
/// `--http`.
#[derive(Debug)]
pub(crate) struct ListenWait {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) limit: Duration,
    /// Receives the time that the wait took, or why it failed.
    pub(crate) listened: Receiver<Result<Duration, Failure>>,
    pub(crate) inherited: Option<InheritedSockets>,
    /// When the command started ([`ProcessStat::started`]). `None` if `run` adopts the daemons of
    /// the command (`--leaks`), or if the system has no `--leaks`.
    pub(crate) unadopted_since: Option<u64>,
}

impl ListenWait {
    /// Returns the wait while its thread runs, and `None` once the wait is over. If the command did
    /// not listen or answer in time, the function ends the command (`pid`) and the processes that
    /// the command started, as [`end_tree`] does. Then the function fails.
    pub(crate) fn poll(self, console: &Console, pid: u32) -> Result<Option<ListenWait>, Failure> {
        match self.listened.try_recv() {
            Ok(Ok(after)) => {
                console.note(format_args!(
                    "the command started to listen after {:.1} s",
                    after.as_secs_f64()
                ));
                if let Some(note) = unseen_owner_note(&self.endpoints, pid) {
                    console.note(note);
                }
                Ok(None)
            }
            // The command may be listening now, so `run` does not end it.
            Ok(Err(error)) if could_not_check(&error) => {
                console.note(format_args!(
                    "the command keeps running, but whether it listens could not be checked: {}",
                    report::failure(&error)
                ));
                Ok(None)
            }
            Ok(Err(error)) => {
                let left = end_tree(pid);
                let left = left.map_err(|e| Failure::system("wait for the command", &e))?;
                Err(self.not_in_time(&left, &error))
            }
            Err(TryRecvError::Disconnected) => Ok(None),
            Err(TryRecvError::Empty) => Ok(Some(self)),
        }
    }

    /// `left` are the pids of the processes that run on because this user may not signal them.
    fn not_in_time(&self, left: &[u32], failure: &Failure) -> Failure {
        let text = match report_of(failure) {
            Some(diagnosis) => {
                // The command has usually ended by now.
                let mut remedies = remedies(diagnosis, &self.endpoints);
                remedies.retain(|remedy| !remedy::needs_running_process(remedy));
                report::with_help(diagnosis.headline(), self.help(diagnosis, &remedies))
            }
            None => report::failure(failure),
        };
        let limit = humantime::format_duration(self.limit);
        let pids: Vec<String> = left.iter().map(|pid| format!("pid {pid}")).collect();
        let stopped = match pids.as_slice() {
            [] => format!("stopped the command after {limit}"),
            pids => format!(
                "stopped the command after {limit}, but not {}, which this user may not signal",
                pids.join(", ")
            ),
        };
        Failure::new(format!("{stopped}: {text}"))
    }

    /// `may_lack_option` says whether the command may have failed to bind because it does not set
    /// SO_REUSEADDR.
    fn ended_first(&self, status: ExitStatus, failure: &Failure, may_lack_option: bool) -> String {
        let found = report_of(failure).and_then(|report| Some((report, report.endpoint()?)));
        let Some((diagnosis, endpoint)) = found else {
            return report::failure(failure);
        };
        let mut text =
            format!("the command ended ({status}) before it listened on port {endpoint}");
        let mut sockets = diagnosis.holders().into_iter().flatten();
        let is_redirected = diagnosis.remedies().contains(&Remedy::ListPacketFilter);
        if is_redirected || sockets.any(|socket| socket.state == State::Listen) {
            text += &format!(": {}", diagnosis.cause());
        }
        let mut remedies = remedies(diagnosis, &self.endpoints);
        remedies.retain(|remedy| may_lack_option || *remedy != Remedy::ReserveForPlainServer);
        report::with_help(text, self.help(diagnosis, &remedies))
    }

    fn help(&self, diagnosis: &Diagnosis, remedies: &[Remedy]) -> Option<String> {
        let help = remedy::in_one_line(remedies, AFTER_WAIT);
        let listeners = diagnosis.holders().into_iter().flatten();
        let mut owners = listeners
            .filter(|of| of.is_server())
            .flat_map(|of| &of.processes);
        let Some(daemon) = owners.find(|process| self.may_have_left(process.pid)) else {
            return help;
        };
        let pid = daemon.pid;
        let otherwise = help
            .map(|help| format!("; otherwise {help}"))
            .unwrap_or_default();
        Some(format!(
            "if pid {pid} is a daemon of the command, add --leaks=report, so that `run` recognizes \
             the daemon{otherwise}"
        ))
    }

    /// Whether the process `pid` may be a daemon of the command. Always `false` with `--leaks`.
    /// Without `--leaks`, only an ancestor of `run` can have adopted the daemon.
    fn may_have_left(&self, pid: u32) -> bool {
        let Some(since) = self.unadopted_since else {
            return false;
        };
        let newer = ProcessStat::lineage_of(pid).take_while(|process| process.started >= since);
        newer.last().is_some_and(|first| {
            ProcessStat::lineage().any(|ancestor| ancestor.pid == first.parent)
        })
    }
}

/// Returns the status of the command, and prints a note in two cases:
///
/// - The command ended before it listened. If the command returned 0, the function fails instead.
/// - `run` could not check whether the command listened.
///
/// `was_signalled` says whether a signal may have ended the command.
pub(crate) fn after_end(
    console: &Console,
    status: ExitStatus,
    listening: Option<ListenWait>,
    was_signalled: bool,
) -> Result<End, Failure> {
    let end = End::from(status);
    let Some(wait) = listening else {
        return Ok(end);
    };
    let Ok(Err(failure)) = wait.listened.recv_timeout(LISTEN_REPORT) else {
        return Ok(end);
    };
    if could_not_check(&failure) {
        console.note(format_args!(
            "could not check whether the command listened: {}",
            report::failure(&failure)
        ));
        return Ok(end);
    }
    let may_lack_option = !was_signalled && !end.is_failure_of_wrapper();
    let mut text = wait.ended_first(status, &failure, may_lack_option);
    // The command may have failed to bind a port whose socket it inherited, so the help names the
    // inherited sockets. If a request of `--http` failed, the text of that failure already names
    // the unused sockets.
    if let Some(sockets) = wait.inherited.filter(|_| report_of(&failure).is_some()) {
        text = report::with_help(text, Some(sockets.help()));
    }
    if status.success() {
        return Err(Failure::new(text));
    }
    console.note(text);
    Ok(end)
}

/// The diagnosis of the port in the error of a failed wait. `None` if the error has no diagnosis.
fn report_of(failure: &Failure) -> Option<&Diagnosis> {
    match failure.cause() {
        failure::Cause::Library(error) => error.diagnosis(),
        failure::Cause::Text(_) => None,
    }
}

/// Returns `true` if `run` could not check whether the command listens. Returns `false` if the
/// diagnosis is certain, or if a request of `--http` failed.
fn could_not_check(failure: &Failure) -> bool {
    match failure.cause() {
        failure::Cause::Library(error) => error.diagnosis().is_none_or(|of| !of.could_tell()),
        failure::Cause::Text(_) => false,
    }
}

/// The remedies after the command has ended. `awaited` are the ports on which the command was
/// expected to listen.
fn remedies(diagnosis: &Diagnosis, awaited: &[Endpoint]) -> Vec<Remedy> {
    let mut remedies = diagnosis.remedies().to_vec();
    // A server may still have one of the ports of `run`. The command may then have failed because
    // of that server, not for lack of SO_REUSEADDR. `run` reports the server when it releases the
    // port.
    if awaited.iter().any(|port| has_server(*port)) {
        remedies.retain(|remedy| *remedy != Remedy::ReserveForPlainServer);
    }
    remedies
}
