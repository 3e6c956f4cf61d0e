//! [`State`]: what a socket is doing.

use std::fmt;

/// What a socket is doing.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let holders = portlease::who_holds(&p)?;
/// let listener = holders.iter().find(|holder| holder.state == portlease::State::Listen).unwrap();
/// println!("{:?}", listener.state);
/// # drop(server);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// A TCP socket that accepts connections.
    Listen,
    /// A bound TCP socket that neither listens nor is connected, or a bound UDP socket without a
    /// peer.
    Bound,
    /// A UDP socket with a peer.
    Connected,
    /// An open TCP connection.
    Established,
    /// A TCP connection that was requested here; the peer has not answered.
    SynSent,
    /// A TCP connection that a peer requested; the handshake is not finished.
    SynRecv,
    /// Closed on this side; the peer has not acknowledged it.
    FinWait1,
    /// Closed on this side and acknowledged; the peer has not closed its side.
    FinWait2,
    /// Closed by the peer; not closed on this side.
    CloseWait,
    /// Closed on both sides at once.
    Closing,
    /// Closed by the peer, then on this side; the peer has not acknowledged it.
    LastAck,
    /// Closed, and kept by the kernel for late packets: 60 s on Linux. No process owns it.
    TimeWait,
    /// A state that this release of the crate does not know, with the kernel's number for it.
    Unknown(u8),
}

impl State {
    /// The name in lower case, as in the JSON of the command `portlease`: `listen`, `close_wait`,
    /// `unknown_17`.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// let listener = holders.iter().find(|h| h.state == portlease::State::Listen).unwrap();
    /// assert_eq!(listener.state.name(), "listen");
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn name(self) -> String {
        self.to_string()
    }
}

/// The same text as [`State::name`].
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Listen => "listen",
            State::Bound => "bound",
            State::Connected => "connected",
            State::Established => "established",
            State::SynSent => "syn_sent",
            State::SynRecv => "syn_recv",
            State::FinWait1 => "fin_wait1",
            State::FinWait2 => "fin_wait2",
            State::CloseWait => "close_wait",
            State::Closing => "closing",
            State::LastAck => "last_ack",
            State::TimeWait => "time_wait",
            State::Unknown(number) => return write!(f, "unknown_{number}"),
        })
    }
}
