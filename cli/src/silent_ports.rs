//! [`SilentPorts`]: the ports of `run` on which nothing has listened since the start of its
//! command.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Instant;

use portlease::{Endpoint, Holder, Remedy, State, wait_until_listening, who_holds};

use crate::inherited_sockets::InheritedSockets;
use crate::limits::SILENT_PORTS_WATCH;
use crate::output::remedy::{self, Asked};
use crate::output::report;
use crate::ports::port_summary;

/// Watches each port until something listens on it, for at most [`SILENT_PORTS_WATCH`].
#[derive(Debug)]
pub(crate) struct SilentPorts {
    started: Instant,
    watched: Vec<(Endpoint, Receiver<()>)>,
}

impl SilentPorts {
    pub(crate) fn watch(endpoints: impl Iterator<Item = Endpoint>) -> SilentPorts {
        let watch = |endpoint: Endpoint| {
            let (sender, receiver) = channel();
            let wait = move || {
                if wait_until_listening(endpoint, SILENT_PORTS_WATCH).is_ok() {
                    // After the command has ended, the receiver is gone, and the send fails.
                    let _sent = sender.send(());
                }
            };
            let thread = std::thread::Builder::new().name("watch".to_owned());
            // If the thread cannot start, the port is not watched and gets no note.
            thread.spawn(wait).ok().map(|_| (endpoint, receiver))
        };
        SilentPorts {
            started: Instant::now(),
            watched: endpoints.filter_map(watch).collect(),
        }
    }

    /// Call this after the command has failed, while `run` still has its ports. Returns a note on
    /// the ports on which nothing has listened, if the claim of `run` (its bound socket) may be the
    /// reason. If `run` passed sockets with `--listen` (`inherited`), also returns a note that the
    /// command may not have used the sockets. Returns nothing if the command ran for
    /// [`SILENT_PORTS_WATCH`]: a server may have listened later.
    ///
    /// If a server still has a port of `run`, the command may have failed because of that server.
    /// Then print the notes only if `run` does not report the server when it releases the port.
    pub(crate) fn notes(self, inherited: Option<&InheritedSockets>) -> Vec<String> {
        let mut notes = Vec::new();
        if self.started.elapsed() >= SILENT_PORTS_WATCH {
            return notes;
        }
        if let Some(sockets) = inherited {
            let text = "the command failed: if it reported \"address already in use\", it may not \
                        have used the inherited socket";
            notes.push(report::with_help(text.to_owned(), Some(sockets.help())));
        }
        let mut silent = Vec::new();
        for (endpoint, seen) in self.watched {
            if seen.try_recv() != Err(TryRecvError::Empty) {
                continue;
            }
            if has_claim(endpoint) {
                silent.push(endpoint);
            }
        }
        if !silent.is_empty() {
            let port = if silent.len() == 1 { "port" } else { "ports" };
            let text = format!(
                "no server was seen on {port} {} before the command failed",
                port_summary(&silent)
            );
            let help = remedy::in_one_line(&[Remedy::ReserveForPlainServer], Asked::default());
            notes.push(report::with_help(text, help));
        }
        notes
    }
}

/// Whether this process has a claim on the port: a bound TCP socket that keeps the port and never
/// listens. While the claim exists, the kernel refuses the bind of a server that sets neither
/// SO_REUSEADDR nor SO_REUSEPORT. `false` if the system does not show the socket or its owner.
fn has_claim(endpoint: Endpoint) -> bool {
    let own = std::process::id();
    let is_claim = |socket: &Holder| {
        let mut owners = socket.processes.iter();
        socket.state == State::Bound && owners.any(|process| process.pid == own)
    };
    who_holds(endpoint).is_ok_and(|holders| holders.iter().any(is_claim))
}
