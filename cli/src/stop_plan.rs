//! [`StopPlan`]: the processes that listen on ports, and for each whether `stop` may end it.

use std::collections::HashSet;
use std::path::Path;

use portlease::{Endpoint, Holder, Process, Protocol, Relation, Remedy, State, who_holds_each};

use crate::ending::{Handles, StopSignal, Target, with_masters};
use crate::failure::Failure;
use crate::process::{INIT, works_below};
use crate::refusal::{Refusal, address};
use crate::restarts::{restart, stop_restarter};
use crate::starters::Starters;
use crate::text::escape;

/// The processes that listen on some ports, divided by whether `stop` may end them.
#[derive(Debug, Default)]
pub(crate) struct StopPlan {
    pub(crate) targets: Vec<Target>,
    pub(crate) refusals: Vec<Refusal>,
    /// Notes on processes that may start a target again.
    pub(crate) notes: Vec<String>,
}

/// The server sockets of the ports.
pub(crate) fn servers(endpoints: &[Endpoint]) -> Result<Vec<Holder>, Failure> {
    let mut all: Vec<Holder> = Vec::new();
    for holders in who_holds_each(endpoints)? {
        all.extend(holders.into_iter().filter(Holder::is_server));
    }
    // One socket can match two endpoints, such as 80 and 127.0.0.1:80.
    let mut known = HashSet::new();
    all.retain(|holder| known.insert((holder.inode, holder.protocol, holder.local)));
    Ok(all)
}

/// A refusal for each UDP socket on the ports, if a client may own the socket. `check --listening`
/// counts such a socket as a server's socket, but `stop` never ends a client.
pub(crate) fn possible_clients(endpoints: &[Endpoint]) -> Result<Vec<Refusal>, Failure> {
    let mut plan = StopPlan::default();
    let cause = "its UDP port is ephemeral, so it may be a client";
    for holder in who_holds_each(endpoints)?.into_iter().flatten() {
        if holder.state == State::Bound && holder.protocol != Protocol::Tcp && !holder.is_server() {
            plan.refuse(&holder, holder.processes.first(), cause, holder.remedies());
        }
    }
    Ok(plan.refusals)
}

impl StopPlan {
    /// Decides for each process that owns one of the sockets whether `stop` may end it. If `under`
    /// is set, `stop` ends only processes whose working directory is `under` or a folder below it.
    ///
    /// The caller must open the handles before it reads `servers`. A handle that is opened later
    /// could refer to another process with the same pid. `starters` has the ancestors of the
    /// processes that earlier rounds signaled.
    pub(crate) fn new(
        servers: &[Holder],
        handles: &mut Handles,
        under: Option<&Path>,
        starters: &Starters,
    ) -> Result<StopPlan, Failure> {
        let mut plan = StopPlan::default();
        for holder in servers {
            let remedies = holder.remedies();
            if holder.processes.is_empty() {
                if holder.hidden {
                    plan.refuse(holder, None, "its process cannot be seen", remedies);
                }
                // The socket has no owner, not even a hidden one: its process has ended, and the
                // kernel is closing the socket.
                continue;
            }
            if remedies.is_empty() {
                let process = holder.processes.first();
                let cause = match process.is_some_and(|process| process.pid == INIT) {
                    true => {
                        "stopping pid 1 would end every other process of this system or container"
                    }
                    false => "the kernel itself listens",
                };
                plan.refuse(holder, process, cause, remedies);
                continue;
            }
            if let Some(Remedy::Thaw { pid, .. }) = remedies.first() {
                let is_frozen = |process: &&Process| process.pid == *pid;
                let process = holder.processes.iter().find(is_frozen);
                plan.refuse(holder, process, "it is frozen", remedies);
                continue;
            }
            plan.follow_all(holder, remedies, handles, under, starters)?;
        }
        Ok(plan)
    }

    /// Follows the remedies of one socket. If [`refusal`] excludes one owner, the socket stays open
    /// even if the other owners end. So no owner becomes a target for this socket.
    fn follow_all(
        &mut self,
        holder: &Holder,
        mut remedies: Vec<Remedy>,
        handles: &mut Handles,
        under: Option<&Path>,
        starters: &Starters,
    ) -> Result<(), Failure> {
        // This command may have inherited the socket too. Its own copy needs no remedy, because it
        // is closed when this command ends.
        if remedies.len() > 1 {
            remedies.retain(|remedy| *remedy != Remedy::CloseOwnSocket);
        }
        let refusals: Vec<Option<Refusal>> = remedies
            .iter()
            .map(|remedy| refusal(holder, remedy, under))
            .collect();
        let refused = refusals.iter().flatten().find_map(|of| of.process.as_ref());
        let refused = refused.map(|process| process.pid);
        for (remedy, refusal) in remedies.into_iter().zip(&refusals) {
            match (refusal, refused) {
                (Some(_), _) => {}
                (None, Some(pid)) => {
                    let cause = format!("pid {pid} has the same socket and is not stopped");
                    let process = target_of(&remedy, &holder.processes);
                    self.refuse(holder, process, cause, Vec::new());
                }
                (None, None) => self.follow(holder, remedy, handles, starters)?,
            }
        }
        self.refusals.extend(refusals.into_iter().flatten());
        Ok(())
    }

    fn follow(
        &mut self,
        holder: &Holder,
        remedy: Remedy,
        handles: &mut Handles,
        starters: &Starters,
    ) -> Result<(), Failure> {
        let Some(process) = target_of(&remedy, &holder.processes) else {
            return Ok(());
        };
        let pid = process.pid;
        let listens = address(holder);
        if let Some(target) = self.targets.iter_mut().find(|of| of.process.pid == pid) {
            // Each worker of a server can have its own socket with the same address.
            if !target.listens.contains(&listens) {
                target.listens.push(listens);
            }
            target.shares_with_hidden |= holder.may_have_hidden_owners();
            return Ok(());
        }
        if let Remedy::StopProcessOfScript { shell, name, .. } = &remedy {
            self.notes.push(format!(
                "if the loop in the script of {} (pid {shell}) starts {} again, {} too",
                escape(name),
                escape(&process.name),
                stop_restarter(*shell)
            ));
        }
        match handles.take(pid)? {
            Some(handle) => self.targets.push(Target {
                signal: StopSignal::of(pid, std::slice::from_ref(&remedy)),
                is_master: matches!(remedy, Remedy::StopMaster { .. }),
                shares_with_hidden: holder.may_have_hidden_owners(),
                process: process.clone(),
                handle,
                listens: vec![listens],
            }),
            None => match restart(holder, process, starters) {
                Some(refusal) => self.refusals.push(refusal),
                None => {
                    let cause = "it began to listen after this command had started; run this \
                                 command again";
                    self.refuse(holder, Some(process), cause, Vec::new());
                }
            },
        }
        Ok(())
    }

    fn refuse(
        &mut self,
        holder: &Holder,
        process: Option<&Process>,
        cause: impl Into<String>,
        remedies: Vec<Remedy>,
    ) {
        self.refusals.push(Refusal {
            process: process.cloned(),
            listens: address(holder),
            cause: cause.into(),
            remedies,
            help: None,
        });
    }
}

/// The owner, or master of an owner, that `stop` ends to carry out the remedy. `None` if the remedy
/// is no signal, or names another process.
fn target_of<'a>(remedy: &Remedy, owners: &'a [Process]) -> Option<&'a Process> {
    let (Remedy::StopProcess { pid, .. }
    | Remedy::StopMaster { pid, .. }
    | Remedy::InterruptProcess { pid, .. }
    | Remedy::StopProcessOfScript { pid, .. }
    | Remedy::ResumeOrKill { pid, .. }
    | Remedy::KillProcess { pid, .. }) = remedy
    else {
        return None;
    };
    with_masters(owners).find(|process| process.pid == *pid)
}

/// Why `stop` does not carry out the remedy. `None` if `stop` carries out the remedy.
fn refusal(holder: &Holder, remedy: &Remedy, under: Option<&Path>) -> Option<Refusal> {
    let refused = |process: Option<&Process>, cause: String, remedies: Vec<Remedy>| Refusal {
        process: process.cloned(),
        listens: address(holder),
        cause,
        remedies,
        help: None,
    };
    let Some(process) = target_of(remedy, &holder.processes) else {
        let process = named_by(remedy, &holder.processes);
        let cause = cause_of(remedy).to_owned();
        return Some(refused(process, cause, vec![remedy.clone()]));
    };
    let cause = match process.relation {
        _ if process.pid == INIT => Some("it is pid 1".to_owned()),
        Some(Relation::ThisProcess) => Some("it is this portlease command".to_owned()),
        Some(Relation::Ancestor) => Some(
            "it started this portlease command, so ending it would end this command".to_owned(),
        ),
        _ => under.and_then(|under| outside(process, under)),
    };
    let cause = cause?;
    if let Remedy::StopMaster { pid, .. } = remedy {
        let cause = format!("its master (pid {pid}) is not stopped: {cause}");
        return Some(refused(holder.processes.first(), cause, Vec::new()));
    }
    Some(refused(Some(process), cause, Vec::new()))
}

/// Why `--under` excludes the process. `None` if the working directory of the process is `under` or
/// a folder below it.
fn outside(process: &Process, under: &Path) -> Option<String> {
    let text = |path: &Path| escape(&path.display().to_string());
    match (works_below(process, under), &process.working_directory) {
        (Some(true), _) => None,
        (Some(false), Some(folder)) => {
            let (folder_text, under) = (text(folder), text(under));
            // Linux appends this text to the path of a deleted folder.
            let deleted = folder_text.strip_suffix(" (deleted)");
            Some(match deleted.filter(|_| !folder.exists()) {
                Some(deleted) => format!(
                    "its working directory {deleted} was deleted, so the present folder {under} \
                     does not contain it"
                ),
                None => format!("its working directory {folder_text} is not below {under}"),
            })
        }
        (_, Some(_)) => Some(
            "its working directory is in another mount namespace, such as that of a container"
                .to_owned(),
        ),
        (_, None) => Some("its working directory cannot be read".to_owned()),
    }
}

/// The owner that the remedy names. If the remedy names no owner, the first owner.
fn named_by<'a>(remedy: &Remedy, owners: &'a [Process]) -> Option<&'a Process> {
    let named = match remedy {
        Remedy::CloseSocketOfAncestor { pid, .. }
        | Remedy::WaitForCoreDump { pid, .. }
        | Remedy::StopWatcherFirst { pid, .. }
        | Remedy::StopBySupervisor { pid, .. } => Some(*pid),
        Remedy::CloseOwnSocket => Some(std::process::id()),
        _ => None,
    };
    let named = owners
        .iter()
        .find(|process| named.is_some_and(|pid| pid == process.pid));
    named.or(owners.first())
}

/// Why `stop` does not signal the process.
fn cause_of(remedy: &Remedy) -> &'static str {
    match remedy {
        Remedy::CloseOwnSocket => "it is this portlease command",
        Remedy::CloseSocketOfAncestor { .. } => "it is an ancestor of this portlease command",
        Remedy::ListSocketUnits { .. } => {
            "it is a service manager that listens on behalf of a service"
        }
        Remedy::StopPublishingContainer { .. } => "it forwards the port to a container",
        Remedy::StopServerInWsl { .. } => "it forwards the port to a server in WSL",
        Remedy::FindProgramOfHttpSys => {
            "it is the Windows kernel, which listens on behalf of a program"
        }
        Remedy::DeletePortProxy { .. } => "a rule of netsh makes it forward the port",
        Remedy::TurnOffAirPlayReceiver => "macOS starts it again",
        Remedy::StopContainer { .. } => "it runs in a container",
        Remedy::StopUnit { .. } => "a service manager may start it again",
        Remedy::StopBySupervisor {
            pid, supervisor, ..
        } if pid == supervisor => "it listens on behalf of a program that it runs",
        Remedy::StopBySupervisor { .. } => "a supervisor may start it again",
        Remedy::StopWatcherFirst { .. } => "the program that runs it may start it again",
        Remedy::WaitForCoreDump { .. } => "it is ending: the kernel is writing its core file",
        _ => "a signal does not free the port",
    }
}
