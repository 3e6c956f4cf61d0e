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
    /// A bound TCP socket that does not listen and has no connection, or a bound UDP socket without
    /// a peer.
    Bound,
    /// A UDP socket with a peer.
    Connected,
    /// An open TCP connection.
    Established,
    /// A TCP connection that this side requested. The peer has not answered.
    SynSent,
    /// A TCP connection that the peer requested. The handshake is not finished.
    SynRecv,
    /// This side has closed the TCP connection. The peer has not acknowledged that.
    FinWait1,
    /// This side has closed the TCP connection, and the peer has acknowledged that. The peer has
    /// not closed its side.
    FinWait2,
    /// The peer has closed the TCP connection. This side has not closed it.
    CloseWait,
    /// Both sides have closed the TCP connection at the same time.
    Closing,
    /// First the peer and then this side closed the TCP connection. The peer has not acknowledged
    /// the close of this side.
    LastAck,
    /// Both sides have closed the TCP connection, and no process owns it. The kernel keeps it for
    /// late packets, on Linux for 60 s.
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
