//! [`InheritedSockets`]: the sockets of `run --listen`, and the help for a command that uses none.

use crate::args::RunArgs;

/// The number of the first descriptor that systemd's protocol passes (sd_listen_fds(3)).
const FIRST_FD: u16 = 3;

/// The text that names the sockets in a help line.
#[derive(Clone, Debug)]
pub(crate) struct InheritedSockets(String);

impl InheritedSockets {
    /// `None` without `--listen`.
    pub(crate) fn of(args: &RunArgs) -> Option<InheritedSockets> {
        let options = args.listen.iter().map(|port| format!("--listen {port}"));
        let options: Vec<String> = options.collect();
        let first = args.fd.unwrap_or(FIRST_FD);
        let (sockets, descriptors) = match options.len() {
            0 => return None,
            1 if !args.shared.numbers.both => ("socket", format!("descriptor {first}")),
            _ => ("sockets", format!("descriptors {first} and up")),
        };
        // With `--fd` the command does not get the variable LISTEN_FDS.
        let variable = args.fd.map_or("LISTEN_FDS: ", |_| "");
        let options = options.join(" and ");
        Some(InheritedSockets(format!(
            "the {sockets} of {options} ({variable}{descriptors})"
        )))
    }

    pub(crate) fn help(&self) -> String {
        format!(
            "let the server use {}, or pass --port instead of --listen if the server binds the \
             port itself",
            self.0
        )
    }
}
