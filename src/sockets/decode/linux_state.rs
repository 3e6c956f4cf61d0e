//! The socket states of Linux by their numbers (`include/net/tcp_states.h`).

use crate::model::endpoint::Protocol;
use crate::model::state::State;

/// Decodes the state of a socket. A UDP socket has state 1 with a peer, and state 7 without one.
pub(super) fn state(protocol: Protocol, number: u8) -> State {
    match (protocol, number) {
        (Protocol::Tcp, 1) => State::Established,
        (Protocol::Tcp, 2) => State::SynSent,
        // 12 is a connection request that has no socket of its own yet.
        (Protocol::Tcp, 3 | 12) => State::SynRecv,
        (Protocol::Tcp, 4) => State::FinWait1,
        (Protocol::Tcp, 5) => State::FinWait2,
        (Protocol::Tcp, 6) => State::TimeWait,
        // A request selects bound sockets by state 13, but the kernel reports them with state 7,
        // "closed".
        (Protocol::Tcp, 7 | 13) => State::Bound,
        (Protocol::Tcp, 8) => State::CloseWait,
        (Protocol::Tcp, 9) => State::LastAck,
        (Protocol::Tcp, 10) => State::Listen,
        (Protocol::Tcp, 11) => State::Closing,
        (Protocol::Udp | Protocol::UdpLite, 1) => State::Connected,
        (Protocol::Udp | Protocol::UdpLite, 7) => State::Bound,
        (_, number) => State::Unknown(number),
    }
}
