//! macOS and the BSDs: this program does not learn who sent a signal. The terminal sends a signal
//! to the whole process group, so the command may have got the signal already. To find out, `run`
//! asks its watcher, a small process in the same group (see `watcher.rs`), which signals the group
//! got.

use std::io;

use signal_hook::iterator::Signals;

use crate::received_signals::Received;

#[derive(Debug)]
pub(crate) struct ReceivedSignals(Signals);

impl ReceivedSignals {
    pub(crate) fn new(signals: impl IntoIterator<Item = i32>) -> io::Result<ReceivedSignals> {
        Ok(ReceivedSignals(Signals::new(signals)?))
    }

    /// Waits until a signal arrives.
    pub(crate) fn wait(&mut self) -> Vec<Received> {
        self.0.wait().map(received).collect()
    }

    /// Returns the signals that have arrived, without waiting.
    pub(crate) fn pending(&mut self) -> Vec<Received> {
        self.0.pending().map(received).collect()
    }
}

fn received(signal: i32) -> Received {
    Received {
        signal,
        is_from_terminal: false,
    }
}
