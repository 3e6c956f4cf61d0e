//! Linux: the origin of a signal shows whether the kernel sent it.

use std::io;

use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::origin::{Origin, WithOrigin};
use signal_hook::low_level::siginfo::Cause;

use crate::received_signals::Received;

#[derive(Debug)]
pub(crate) struct ReceivedSignals(SignalsInfo<WithOrigin>);

impl ReceivedSignals {
    pub(crate) fn new(signals: impl IntoIterator<Item = i32>) -> io::Result<ReceivedSignals> {
        Ok(ReceivedSignals(SignalsInfo::new(signals)?))
    }

    /// Waits until a signal arrives.
    pub(crate) fn wait(&mut self) -> Vec<Received> {
        self.0.wait().map(Received::from).collect()
    }

    /// Returns the signals that have arrived, without waiting.
    pub(crate) fn pending(&mut self) -> Vec<Received> {
        self.0.pending().map(Received::from).collect()
    }
}

impl From<Origin> for Received {
    fn from(origin: Origin) -> Received {
        Received {
            signal: origin.signal,
            is_from_terminal: matches!(origin.cause, Cause::Kernel),
        }
    }
}
