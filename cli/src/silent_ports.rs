//! [`SilentPorts`]: the ports of `run` on which nothing has listened since the start of its
//! command.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Instant;

use portlease::{Endpoint, Remedy, wait_until_listening};

use crate::finding::has_claim;
use crate::inherited_sockets::InheritedSockets;
use crate::limits::SILENT_PORTS_WATCH;
use crate::output::remedy::{self, Asked};
use crate::output::report;
use crate::ports::port_summary;

/// Watches each port until something listens on it, for at most [`SILENT_PORTS_WATCH`].
#[derive(Debug)]
pub(crate) struct SilentPorts {
    started: Instant,
    watched: Vec<SilentPort>,
}

#[derive(Debug)]
struct SilentPort {
    endpoint: Endpoint,
    /// The process that reserved the port. `None` if it is outside of this pid namespace.
    owner: Option<u32>,
    seen: Receiver<()>,
}

impl SilentPorts {
    /// Each item of `ports` is a port, and the pid of the process that reserved the port: `run`
    /// itself, or the port server.
    pub(crate) fn watch(ports: impl Iterator<Item = (Endpoint, Option<u32>)>) -> SilentPorts {
        let watch = |(endpoint, owner)| {
            let (sender, seen) = channel();
            let wait = move || {
                if wait_until_listening(endpoint, SILENT_PORTS_WATCH).is_ok() {
                    // After the command has ended, the receiver is gone, and the send fails.
                    let _sent = sender.send(());
                }
            };
            let thread = std::thread::Builder::new().name("watch".to_owned());
            // If the thread cannot start, the port is not watched and gets no note.
            thread.spawn(wait).ok().map(|_| SilentPort {
                endpoint,
                owner,
                seen,
            })
        };
        SilentPorts {
            started: Instant::now(),
            watched: ports.filter_map(watch).collect(),
        }
    }

    /// Call this after the command has failed, while `run` still has its ports. Returns notes on
    /// possible causes of the failure:
    /// - Nothing has listened on some ports. The owner of these ports has a claim (a bound socket)
    ///   on each of them, which may have kept the server of the command from binding.
    /// - `run` passed sockets with `--listen` (`inherited`). The command may not have used them.
    ///
    /// Returns nothing if the command ran for [`SILENT_PORTS_WATCH`]: a server may have listened
    /// later.
    ///
    /// If a server still has a port of `run`, the command may have failed because of that server.
    /// Then print the notes after `run` has released the ports, and only if `run` has reported no
    /// server.
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
        for port in self.watched {
            let is_silent = port.seen.try_recv() == Err(TryRecvError::Empty);
            if is_silent && has_claim(port.endpoint, port.owner) {
                silent.push(port.endpoint);
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
