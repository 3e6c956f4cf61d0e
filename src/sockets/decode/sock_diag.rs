//! Netlink's `sock_diag` messages as bytes: questions encoded, answers decoded (`sock_diag(7)`,
//! `linux/inet_diag.h`). No I/O.
//!
//! Headers and counters are in the byte order of the machine, ports and addresses in that of the network. The
//! machine's order is a value here, so that captured bytes decode alike everywhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU64;

use super::super::Row;
use crate::model::endpoint::Protocol;

/// The byte order of the machine that wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Little,
    Big,
}

impl Order {
    pub(crate) const NATIVE: Order = if cfg!(target_endian = "big") {
        Order::Big
    } else {
        Order::Little
    };

    pub(super) fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        }
    }

    pub(super) fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// Which sockets a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// One question for both, which only TCP has: the older form of the message, whose family the kernel ignores.
    Any,
    V4,
    V6,
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The type of a question, and of the answers to it: the older one, TCP alone.
const TCPDIAG_GETSOCK: u16 = 18;
/// The type since Linux 3.3, any protocol.
const SOCK_DIAG_BY_FAMILY: u16 = 20;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;

const HEADER: usize = 16;
/// `struct inet_diag_msg`.
const ANSWER: usize = 72;
/// A row takes as much of a datagram, or more.
#[cfg(any(test, fuzzing))]
pub(crate) const ROW_AT_LEAST: usize = HEADER + ANSWER;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// Bits of the states to walk, by the kernel's numbers.
pub(crate) const ALL: u32 = u32::MAX;
pub(crate) const LISTEN: u32 = 1 << 10;
/// UDP sockets without a peer.
pub(crate) const UNCONNECTED: u32 = 1 << 7;
/// TCP sockets that are bound and neither listen nor connect; kernels before 6.8 ignore the bit.
pub(crate) const BOUND: u32 = 1 << 13;

/// A question for every socket with this local port (0: any port).
pub(crate) fn question(
    protocol: Protocol,
    family: Family,
    states: u32,
    port: u16,
    sequence: u32,
) -> Vec<u8> {
    let (kind, af) = match family {
        Family::Any => (TCPDIAG_GETSOCK, AF_INET),
        Family::V4 => (SOCK_DIAG_BY_FAMILY, AF_INET),
        Family::V6 => (SOCK_DIAG_BY_FAMILY, AF_INET6),
    };
    let mut identity = [0; 48];
    identity[..2].copy_from_slice(&port.to_be_bytes());
    // INET_DIAG_NOCOOKIE: no one socket is meant.
    identity[40..].fill(0xff);

    let mut body = Vec::with_capacity(64);
    if family == Family::Any {
        body.extend([af, 0, 0, 0]);
        body.extend(identity);
        body.extend(states.to_ne_bytes());
        body.extend([0; 4]);
    } else {
        body.extend([af, number(protocol), 0, 0]);
        body.extend(states.to_ne_bytes());
        body.extend(identity);
    }
    let length = (HEADER + body.len()) as u32;
    let mut out = Vec::with_capacity(80);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend(body);
    out
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::UdpLite => 136,
    }
}

/// How a walk stands after a datagram of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More datagrams follow.
    More,
    /// The last answer was in it.
    Done,
    /// The kernel refused with this `errno`.
    Refused(i32),
}

/// What one datagram said besides its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) progress: Progress,
    /// The table changed under the walk (NLM_F_DUMP_INTR): rows may be missing or twice.
    pub(crate) interrupted: bool,
}

/// Appends the rows of one datagram. Of bytes that are no whole message, nothing after them is read.
pub(crate) fn answers(
    bytes: &[u8],
    order: Order,
    protocol: Protocol,
    sequence: u32,
    rows: &mut Vec<Row>,
) -> Datagram {
    let mut said = Datagram {
        progress: Progress::More,
        interrupted: false,
    };
    let mut rest = bytes;
    while let Some((length, kind, flags, answered)) = header(rest, order) {
        let Some(payload) = rest.get(HEADER..length) else {
            break;
        };
        if answered == sequence {
            said.interrupted |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                NLMSG_DONE | NLMSG_ERROR => {
                    let code = at::<4>(payload, 0).map_or(0, |code| order.u32(code) as i32);
                    said.progress = if code < 0 {
                        Progress::Refused(code.wrapping_neg())
                    } else {
                        Progress::Done
                    };
                    return said;
                }
                TCPDIAG_GETSOCK | SOCK_DIAG_BY_FAMILY => rows.extend(row(payload, order, protocol)),
                _ => {}
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    said
}

fn header(bytes: &[u8], order: Order) -> Option<(usize, u16, u16, u32)> {
    let length = usize::try_from(order.u32(at(bytes, 0)?))
        .ok()
        .filter(|length| *length >= HEADER)?;
    Some((
        length,
        order.u16(at(bytes, 4)?),
        order.u16(at(bytes, 6)?),
        order.u32(at(bytes, 8)?),
    ))
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn row(payload: &[u8], order: Order, protocol: Protocol) -> Option<Row> {
    let answer: &[u8; ANSWER] = payload.first_chunk()?;
    let [family, state, ..] = *answer;
    let inode = NonZeroU64::new(order.u32(at(answer, 68)?).into());
    let interface = order.u32(at(answer, 40)?);
    let local = address(
        family,
        at(answer, 8)?,
        u16::from_be_bytes(at(answer, 4)?),
        interface,
    )?;
    let remote = address(
        family,
        at(answer, 24)?,
        u16::from_be_bytes(at(answer, 6)?),
        interface,
    )?;
    Some(Row {
        protocol,
        local,
        remote: (remote.port() != 0 || !remote.ip().is_unspecified()).then_some(remote),
        state: super::linux_state::state(protocol, state),
        // A socket that nobody has is nobody's, whatever the field says: mostly 0, which is root.
        uid: if inode.is_none() {
            None
        } else {
            Some(order.u32(at(answer, 64)?))
        },
        inode,
        dual_stack: family == AF_INET6 && v6only(&payload[ANSWER..], order) == Some(false),
        client: false,
    })
}

fn address(family: u8, bytes: [u8; 16], port: u16, interface: u32) -> Option<SocketAddr> {
    match family {
        AF_INET => Some(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::from(at::<4>(&bytes, 0)?)),
            port,
        )),
        AF_INET6 => {
            let ip = Ipv6Addr::from(bytes);
            // Elsewhere the interface is one that the socket was tied to, no part of the address.
            let scope = if ip.is_unicast_link_local() {
                interface
            } else {
                0
            };
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
        }
        _ => None,
    }
}

/// The attribute that a socket carries while it listens or is only bound.
fn v6only(mut attributes: &[u8], order: Order) -> Option<bool> {
    loop {
        let length = usize::from(order.u16(at(attributes, 0)?));
        let value = attributes.get(4..length)?;
        if order.u16(at(attributes, 2)?) == INET_DIAG_SKV6ONLY {
            return value.first().map(|only| *only != 0);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::state::State;

    // Captured from Linux 6.18, x86-64, in a network namespace of its own; 33955 was asked for.
    const PORT: u16 = 33955;
    pub(crate) const SEQUENCE: u32 = 7;
    const TCP: &str = "\
        840000001200020007000000b21f00000a0a000084a30000000000000000000000000000000000000000000000000000\
        000000000000000000000000030000000000000000000000010000000400000000000000ef981e000500080000000000\
        05000b000000000008000f00000000000c001500010000000000000006001600120000007c0000001200020007000000\
        b21f000002070000b7b700007f0000010000000000000000000000000000000000000000000000000000000000000000\
        040000000000000000000000000000000000000000000000f0981e00050008000000000008000f00000000000c001500\
        010000000000000006001600520000007c0000001200020007000000b21f00000a01000084a3d0540000000000000000\
        0000ffff7f00000100000000000000000000ffff7f000001000000000500000000000000000000000000000000000000\
        00000000f2981e00050008000000000008000f00000000000c001500010000000000000006001600120000007c000000\
        1200020007000000b21f00000a08000084a3d06400000000000000000000ffff7f00000100000000000000000000ffff\
        7f0000010000000006000000000000000000000001000000000000000000000000000000050008000100000008000f00\
        000000000c001500010000000000000006001600120000007c0000001200020007000000b21f00000a04010084a38630\
        0000000000000000000000000000000100000000000000000000000000000001000000000700000000000000cc000000\
        00000000010000000000000000000000050008000300000008000f00000000000c001500010000000000000006001600\
        12000000140000000300020007000000b21f000000000000";
    const UDP4: &str = "\
        7c0000001400020007000000b21f00000201000084a300357f0000010000000000000000000000007f00000100000000\
        000000000000000000000000080000000000000000000000000000000000000000000000f7981e000500080000000000\
        08000f00000000000c00150001000000000000000600160050000000140000000300020007000000b21f000000000000";
    const UDP6: &str = "\
        840000001400020007000000b21f00000a07000084a30000000000000000000000000000000000000000000000000000\
        000000000000000000000000090000000000000000000000000000000000000000000000f8981e000500080000000000\
        05000b000100000008000f00000000000c00150001000000000000000600160010000000140000000300020007000000\
        b21f000000000000";
    const REFUSED: &str = "\
        140000000300020007000000b21f0000feffffff";
    pub(crate) const CAPTURED: [&str; 4] = [TCP, UDP4, UDP6, REFUSED];

    pub(crate) fn bytes(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    /// One answer, as a kernel of this byte order gives it, with the attribute of a listener if there is one.
    pub(crate) fn answer(
        order: Order,
        state: u8,
        local: SocketAddr,
        remote: SocketAddr,
        uid: u32,
        inode: u32,
        only_v6: Option<bool>,
    ) -> Vec<u8> {
        let (u16, u32) = (
            |n: u16| {
                if order == Order::Big {
                    n.to_be_bytes()
                } else {
                    n.to_le_bytes()
                }
            },
            |n: u32| {
                if order == Order::Big {
                    n.to_be_bytes()
                } else {
                    n.to_le_bytes()
                }
            },
        );
        let ip = |addr: SocketAddr| match addr.ip() {
            IpAddr::V4(ip) => [&ip.octets()[..], &[0; 12]].concat(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
        let mut payload = vec![family, state, 0, 0];
        payload.extend(local.port().to_be_bytes());
        payload.extend(remote.port().to_be_bytes());
        payload.extend(ip(local));
        payload.extend(ip(remote));
        // Interface, cookie, expiry and two queues.
        payload.extend([0; 24]);
        payload.extend(u32(uid));
        payload.extend(u32(inode));
        // Others come before it, and their lengths are padded.
        for (kind, value) in [
            Some((5, 7)),
            only_v6.map(|only| (INET_DIAG_SKV6ONLY, only.into())),
        ]
        .into_iter()
        .flatten()
        {
            payload.extend(u16(5));
            payload.extend(u16(kind));
            payload.extend([value, 0, 0, 0]);
        }
        let length = (HEADER + payload.len()) as u32;
        let head = [
            &u32(length)[..],
            &u16(SOCK_DIAG_BY_FAMILY),
            &u16(2),
            &u32(SEQUENCE),
            &u32(9),
        ]
        .concat();
        [head, payload].concat()
    }

    fn decode(bytes: &[u8], protocol: Protocol) -> (Vec<Row>, Datagram) {
        let mut rows = Vec::new();
        let said = answers(bytes, Order::Little, protocol, SEQUENCE, &mut rows);
        (rows, said)
    }

    fn short(row: &Row) -> (String, Option<String>, State, Option<u32>, bool) {
        (
            row.local.to_string(),
            row.remote.map(|r| r.to_string()),
            row.state,
            row.uid,
            row.dual_stack,
        )
    }

    fn told(
        local: &str,
        remote: &str,
        state: State,
        uid: Option<u32>,
        dual: bool,
    ) -> (String, Option<String>, State, Option<u32>, bool) {
        (
            local.to_owned(),
            Some(remote.to_owned()).filter(|r| !r.is_empty()),
            state,
            uid,
            dual,
        )
    }

    #[test]
    fn captured_answers_are_decoded_row_by_row() {
        let (rows, said) = decode(&bytes(TCP), Protocol::Tcp);
        assert_eq!(
            said,
            Datagram {
                progress: Progress::Done,
                interrupted: false
            }
        );
        let mapped = "[::ffff:127.0.0.1]";
        assert_eq!(
            rows.iter().map(short).collect::<Vec<_>>(),
            [
                told("[::]:33955", "", State::Listen, Some(0), true),
                // The walk over bound sockets does not heed the port.
                told("127.0.0.1:47031", "", State::Bound, Some(0), false),
                told(
                    &format!("{mapped}:33955"),
                    &format!("{mapped}:53332"),
                    State::Established,
                    Some(0),
                    false
                ),
                told(
                    &format!("{mapped}:33955"),
                    &format!("{mapped}:53348"),
                    State::CloseWait,
                    None,
                    false
                ),
                told("[::1]:33955", "[::1]:34352", State::FinWait1, None, false),
            ]
        );
        assert_eq!(rows[0].inode, NonZeroU64::new(0x1e98ef));

        let (rows, _) = decode(&bytes(UDP4), Protocol::Udp);
        assert_eq!(
            rows.iter().map(short).collect::<Vec<_>>(),
            [told(
                "127.0.0.1:33955",
                "127.0.0.1:53",
                State::Connected,
                Some(0),
                false
            )]
        );
        let (rows, _) = decode(&bytes(UDP6), Protocol::Udp);
        assert_eq!(
            rows.iter().map(short).collect::<Vec<_>>(),
            [told("[::]:33955", "", State::Bound, Some(0), false)]
        );
    }

    #[test]
    fn a_refusal_is_told_from_an_empty_table() {
        assert_eq!(
            decode(&bytes(REFUSED), Protocol::Udp).1.progress,
            Progress::Refused(2)
        );
        let empty = &bytes(TCP)[bytes(TCP).len() - 20..];
        assert_eq!(
            decode(empty, Protocol::Tcp),
            (
                Vec::new(),
                Datagram {
                    progress: Progress::Done,
                    interrupted: false
                }
            )
        );
    }

    #[test]
    fn no_truncation_and_no_changed_byte_panics_or_invents_a_row() {
        for capture in CAPTURED {
            let whole = bytes(capture);
            let rows = decode(&whole, Protocol::Tcp).0;
            for cut in 0..whole.len() {
                let (part, said) = decode(&whole[..cut], Protocol::Tcp);
                assert_eq!(part, rows[..part.len()], "cut at {cut}");
                assert_eq!(said.progress, Progress::More, "cut at {cut}");
            }
            for at in 0..whole.len() {
                for value in [0, 1, 3, 0x7f, 0x80, 0xff] {
                    let mut changed = whole.clone();
                    changed[at] = value;
                    decode(&changed, Protocol::Tcp);
                    decode(&changed, Protocol::Udp);
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = fastrand::Rng::with_seed(3);
        let whole = bytes(TCP);
        for _ in 0..20_000 {
            let mut changed = whole.clone();
            for _ in 0..random.usize(1..20) {
                let at = random.usize(0..changed.len());
                changed[at] = random.u8(..);
            }
            changed.truncate(random.usize(..=changed.len()));
            decode(&changed, Protocol::Tcp);
        }
    }

    #[test]
    fn a_state_that_is_not_known_is_kept_by_its_number() {
        let mut changed = bytes(TCP);
        changed[17] = 77;
        assert_eq!(
            decode(&changed, Protocol::Tcp).0[0].state,
            State::Unknown(77)
        );
        changed[16] = 99;
        assert_eq!(
            decode(&changed, Protocol::Tcp).0.len(),
            4,
            "an unknown family has no address to show"
        );
    }

    #[test]
    fn answers_to_another_question_and_interruptions_are_told_apart() {
        let mut rows = Vec::new();
        assert_eq!(
            answers(
                &bytes(TCP),
                Order::Little,
                Protocol::Tcp,
                SEQUENCE + 1,
                &mut rows
            )
            .progress,
            Progress::More
        );
        assert!(rows.is_empty());
        let mut changed = bytes(TCP);
        changed[6] |= NLM_F_DUMP_INTR as u8;
        assert!(decode(&changed, Protocol::Tcp).1.interrupted);
    }

    #[test]
    fn questions_have_the_size_that_they_say() {
        for family in [Family::Any, Family::V4, Family::V6] {
            let question = question(Protocol::Udp, family, ALL, PORT, 1);
            assert_eq!(
                Order::NATIVE.u32(at(&question, 0).unwrap()) as usize,
                question.len()
            );
            let identity = if family == Family::Any { 20 } else { 24 };
            assert_eq!(question[identity..identity + 2], PORT.to_be_bytes());
        }
    }

    #[test]
    fn a_big_endian_machine_reads_its_own_order() {
        let mut swapped = bytes(UDP4);
        swapped.truncate(88);
        for (at, size) in [(0, 4), (4, 2), (6, 2), (8, 4), (80, 4), (84, 4)] {
            swapped[at..at + size].reverse();
        }
        swapped[..4].copy_from_slice(&88u32.to_be_bytes());
        let mut rows = Vec::new();
        answers(&swapped, Order::Big, Protocol::Udp, SEQUENCE, &mut rows);
        let (expected, _) = decode(&bytes(UDP4), Protocol::Udp);
        assert_eq!(rows, expected);
    }
}
