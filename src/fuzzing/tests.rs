//! Checks the properties of `fuzzing.rs` with random bytes, with captured answers that are
//! truncated and changed, and with answers that a kernel could give.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Union;
use proptest::test_runner::Config;

use super::{Endpoint, Order, Protocol, Record, State, iphlpapi, procfs, sock_diag};
use crate::model::process::ProcessState;
use crate::model::record::{Beneficiary, StableName};
use crate::sockets::decode::{procfs::tests as captured_proc, sock_diag::tests as captured_diag};

/// Makes proptest run this number of cases. Without failure persistence, proptest writes no file
/// into the source tree. It still prints the smallest failing input.
fn cases(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..600)
}

/// One of the captured inputs, with up to seven bytes changed. Half of the results are also
/// truncated.
fn mutated(captured: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edits = vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    let whole = prop::sample::select(captured);
    (whole, edits, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(mut bytes, edits, cut, truncate)| {
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if truncate {
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            bytes
        },
    )
}

/// Puts a random header before the bytes. `super::split` decodes the header.
fn with_header(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    // The captured inputs are little-endian. Half of these headers select that byte order.
    (0..6u8, any::<u16>(), bytes).prop_map(|(mode, cut, bytes)| {
        let cut = if bytes.is_empty() {
            0
        } else {
            cut % (bytes.len() as u16 + 1)
        };
        [&[mode][..], &cut.to_le_bytes(), &bytes].concat()
    })
}

fn ip(v6: bool) -> BoxedStrategy<IpAddr> {
    if v6 {
        let anything = any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into());
        // Random bits rarely give the special addresses below. A link-local address has a scope id,
        // and an IPv4-mapped address could be decoded as IPv4.
        let link_local =
            any::<u16>().prop_map(|last| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last).into());
        let mapped =
            any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).to_ipv6_mapped().into());
        let wildcard = Just(Ipv6Addr::UNSPECIFIED.into());
        prop_oneof![anything, link_local, mapped, wildcard].boxed()
    } else {
        any::<u32>()
            .prop_map(|bits| Ipv4Addr::from_bits(bits).into())
            .boxed()
    }
}

fn addr(v6: bool) -> impl Strategy<Value = SocketAddr> {
    (ip(v6), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(Protocol::ALL.to_vec())
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn text_like_an_endpoint_is_parsed_or_quoted(
        text in r"[0-9a-fA-F:./\[\]%tcpudlie+ \n-]{0,28}",
    ) {
        super::endpoint(text.as_bytes());
    }

    #[test]
    fn any_text_is_parsed_as_an_endpoint_or_quoted(bytes in any_bytes()) {
        super::endpoint(&bytes);
    }

    #[test]
    fn every_printed_endpoint_parses_to_itself(
        port in 1..=u16::MAX,
        ip in prop::option::of(Union::new([ip(false), ip(true)])),
        protocol in prop::option::of(protocol()),
    ) {
        let endpoint = Endpoint { port, ip, protocol };
        prop_assert_eq!(endpoint.to_string().parse::<Endpoint>().ok(), Some(endpoint));
    }

    #[test]
    fn any_bytes_decode_to_a_valid_record_or_none(bytes in any_bytes()) {
        super::record(&bytes);
    }

    #[test]
    fn a_changed_record_decodes_to_a_valid_record_or_none(
        bytes in mutated(vec![record().encode().to_vec(), record().encode()[..300].to_vec()]),
    ) {
        super::record(&bytes);
    }

    #[test]
    fn a_record_with_any_texts_is_decoded_as_it_was_encoded(
        numbers in any::<(u32, u64, u64, u32, Option<(u32, u64)>, Option<u16>)>(),
        texts in vec(prop_oneof![".{0,40}", "(\\\\|\n|é|…|a){0,300}"], 7),
    ) {
        let (pid, started, socket, secs, beneficiary, first_choice) = numbers;
        let (started, socket) = (NonZeroU64::new(started), NonZeroU64::new(socket));
        let [program, test, at, label, command, working_directory, name] =
            [0, 1, 2, 3, 4, 5, 6].map(|n| texts[n].clone());
        let since = std::time::Duration::new(secs.into(), pid % 1_000_000_000);
        let on_behalf_of = beneficiary.map(|(pid, started)| Beneficiary {
            pid,
            started: NonZeroU64::new(started),
        });
        let name = first_choice.map(|first_choice| StableName { name, first_choice });
        let pid_namespace = NonZeroU64::new(secs.into());
        let record = Record {
            pid,
            started,
            program,
            test,
            at,
            label,
            command,
            working_directory,
            since,
            socket,
            pid_namespace,
            on_behalf_of,
            name,
        };
        let bytes = record.encode();
        super::record(&bytes);
        let decoded = Record::decode(&bytes).unwrap();
        // A record keeps at most 200 bytes of each text, and the escaping at most doubles a text.
        let is_kept_whole = |text: &String| text.len() * 2 <= 200;
        if texts.iter().all(is_kept_whole) {
            prop_assert_eq!(decoded, record);
        } else {
            prop_assert_eq!((decoded.pid, decoded.started), (pid, started));
            prop_assert_eq!((decoded.socket, decoded.since), (socket, since));
        }
    }

    #[test]
    fn lines_like_a_record_decode_to_a_valid_record_or_none(
        stamp in "[0-9]{1,3}[.]?[0-9]{0,9}",
        lines in vec(
            "(pid|started|socket|for|named|test|at|label|program|end|mood) ?[0-9a. \\\\n]{0,6}",
            0..8,
        ),
        end in any::<bool>(),
    ) {
        let end = if end { format!("end {stamp}\n") } else { String::new() };
        super::record(format!("portlease 1 {stamp}\n{}\n{end}", lines.join("\n")).as_bytes());
    }

    #[test]
    fn any_bytes_decode_to_valid_answers_of_sock_diag_or_none(bytes in with_header(any_bytes())) {
        super::sock_diag(&bytes);
    }

    #[test]
    fn truncated_and_changed_answers_add_no_row(
        bytes in with_header(mutated(captured_diag::CAPTURED.map(captured_diag::bytes).to_vec())),
    ) {
        super::sock_diag(&bytes);
    }

    #[test]
    fn every_answer_that_a_kernel_could_give_is_decoded(
        big in any::<bool>(),
        protocol in protocol(),
        state in any::<u8>(),
        (v6, local, remote) in any::<bool>().prop_flat_map(|v6| (Just(v6), addr(v6), addr(v6))),
        uid in any::<u32>(),
        inode in any::<u32>(),
        only in prop::option::of(any::<bool>()),
    ) {
        let order = if big { Order::Big } else { Order::Little };
        let bytes = captured_diag::answer(order, state, local, remote, uid, inode, only);
        let mut rows = Vec::new();
        let sequence = captured_diag::SEQUENCE;
        let answers = sock_diag::answers(&bytes, order, protocol, sequence, &mut rows);
        prop_assert_eq!(answers.progress, sock_diag::Progress::More);
        prop_assert_eq!(rows.len(), 1);
        let row = &rows[0];
        prop_assert_eq!((row.local.ip(), row.local.port()), (local.ip(), local.port()));
        let peer = row.remote.map(|remote| (remote.ip(), remote.port()));
        let has_peer = remote.port() != 0 || !remote.ip().is_unspecified();
        prop_assert_eq!(peer, has_peer.then(|| (remote.ip(), remote.port())));
        prop_assert_eq!(row.inode, NonZeroU64::new(inode.into()));
        prop_assert_eq!(row.uid, (inode != 0).then_some(uid));
        prop_assert_eq!(row.dual_stack, v6 && only == Some(false));
    }

    #[test]
    fn an_answer_with_any_attributes_is_a_row_if_its_family_is_known(
        family in prop_oneof![Just(2u8), Just(10), any::<u8>()],
        addr in addr(true),
        attributes in prop_oneof![
            vec(prop_oneof![Just(0u8), 3..16u8, any::<u8>()], 0..24),
            // The last attribute of a message can lack its padding.
            (5..8u8, 0..4u8).prop_map(|(length, kind)| {
                [length, 0, kind, 0, 1, 1, 1, 1][..length.into()].to_vec()
            }),
        ],
    ) {
        let mut bytes = captured_diag::answer(Order::Little, 10, addr, addr, 1, 2, None);
        bytes[16] = family;
        bytes.extend(attributes);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        super::sock_diag(&[&[0, 90, 0][..], &bytes].concat());
        let mut rows = Vec::new();
        let sequence = captured_diag::SEQUENCE;
        sock_diag::answers(&bytes, Order::Little, Protocol::Tcp, sequence, &mut rows);
        prop_assert_eq!(rows.len(), usize::from(family == 2 || family == 10));
    }

    #[test]
    fn any_bytes_decode_to_valid_lines_of_proc_net_or_none(bytes in with_header(any_bytes())) {
        super::proc_net(&bytes);
    }

    #[test]
    fn truncated_and_changed_lines_of_proc_net_add_no_row(
        bytes in with_header(mutated(
            captured_proc::CAPTURED.map(|text| text.as_bytes().to_vec()).to_vec(),
        )),
    ) {
        super::proc_net(&bytes);
    }

    #[test]
    fn every_line_that_proc_net_could_have_is_decoded(
        big in any::<bool>(),
        (v6, local, remote) in any::<bool>().prop_flat_map(|v6| (Just(v6), addr(v6), addr(v6))),
        state in any::<u8>(),
        uid in any::<u32>(),
        inode in any::<u64>(),
    ) {
        let order = if big { Order::Big } else { Order::Little };
        let hex = |addr: SocketAddr| {
            let octets = match addr.ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let words = octets.chunks(4).map(|four| {
                let four = [four[0], four[1], four[2], four[3]];
                if big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
            });
            let words: String = words.map(|word| format!("{word:08X}")).collect();
            format!("{words}:{:04X}", addr.port())
        };
        let (local_hex, remote_hex) = (hex(local), hex(remote));
        let line =
            format!("0: {local_hex} {remote_hex} {state:02X} 0:0 00:0 0 {uid} 0 {inode} 1");
        let rows: Vec<_> = procfs::sockets(&line, order, Protocol::Tcp, 0).collect();
        prop_assert_eq!(rows.len(), 1, "{}", line);
        prop_assert_eq!(rows[0].local, local);
        let has_peer = remote.port() != 0 || !remote.ip().is_unspecified();
        prop_assert_eq!(rows[0].remote, has_peer.then_some(remote));
        prop_assert_eq!(rows[0].inode, NonZeroU64::new(inode));
        prop_assert_eq!(rows[0].uid, (inode != 0).then_some(uid));
        prop_assert_eq!(rows[0].dual_stack, v6 && local.ip().is_unspecified());
    }

    #[test]
    fn words_like_a_line_of_proc_net_decode_to_a_valid_row_or_none(
        words in vec("[0-9A-F]{0,2}([0-9A-F]{8}){0,5}:?[0-9A-F]{0,4}", 0..12),
    ) {
        super::proc_net(&[b"\0\0\0", words.join(" ").as_bytes()].concat());
    }

    #[test]
    fn text_like_a_setting_contains_no_empty_range(
        text in r"([a-z:*,\n\r\t -]{0,4}[0-9]{0,6}){0,12}",
    ) {
        super::settings(text.as_bytes());
    }

    #[test]
    fn any_bytes_decode_to_a_valid_process_or_none(bytes in any_bytes()) {
        super::process(&bytes);
        super::report(&bytes);
    }

    #[test]
    fn truncated_and_changed_files_of_a_process_are_decoded_or_skipped(
        bytes in mutated(captured_proc::OF_A_PROCESS.map(<[u8]>::to_vec).to_vec()),
    ) {
        super::process(&bytes);
    }

    #[test]
    fn a_process_with_any_name_is_decoded_and_reported(
        name in vec(any::<u8>(), 0..64),
        (pid, parent, started) in any::<(u32, u32, u64)>(),
        (ended, forked) in any::<(bool, bool)>(),
    ) {
        let (state, flags) = (if ended { 'Z' } else { 'S' }, if forked { 0x40 } else { 0x40_0000 });
        let head = format!("{pid} (");
        let tail = format!(
            ") {state} {parent} 7 7 0 -1 {flags} 1 0 0 0 5 6 0 0 20 0 1 0 {started} 1 2\n"
        );
        let stat = procfs::stat(&[head.as_bytes(), &name, tail.as_bytes()].concat()).unwrap();
        prop_assert_eq!(stat.name, String::from_utf8_lossy(&name).into_owned());
        prop_assert_eq!((stat.parent, stat.started), (parent, started));
        prop_assert_eq!((stat.state == ProcessState::Zombie, stat.forked), (ended, forked));
        super::report(&name);
    }

    #[test]
    fn every_command_line_is_split_at_the_ends_of_its_arguments(
        arguments in vec(vec(1..=u8::MAX, 0..12), 1..8),
    ) {
        let cmdline = [arguments.join(&0), vec![0]].concat();
        let decoded: Vec<Vec<u8>> = procfs::arguments(&cmdline).map(<[u8]>::to_vec).collect();
        // In `/proc/PID/cmdline`, arguments that the process has erased look the same as one empty
        // argument.
        let erased = arguments == [Vec::<u8>::new()];
        prop_assert_eq!(decoded, if erased { Vec::new() } else { arguments });
    }

    #[test]
    fn any_bytes_decode_to_a_valid_table_of_windows_or_none(bytes in with_header(any_bytes())) {
        super::iphlpapi(&bytes);
    }

    #[test]
    fn any_bytes_decode_to_a_valid_socket_and_process_of_macos_or_none(
        bytes in vec(any::<u8>(), 0..1000),
        kind in 0..4u8,
        protocol in prop_oneof![Just(6u8), Just(17u8)],
    ) {
        super::libproc(&bytes);
        if bytes.len() >= 792 {
            // Sets a protocol and a kind of socket that the decoder knows.
            let mut plausible = bytes;
            plausible[180..184].copy_from_slice(&[protocol, 0, 0, 0]);
            plausible[256..260].copy_from_slice(&[kind, 0, 0, 0]);
            super::libproc(&plausible);
        }
    }

    #[test]
    fn a_table_of_windows_has_a_row_for_each_that_fits(
        count in prop_oneof![0..20u32, any::<u32>()],
        rows in vec(any::<u32>(), 0..140),
        states in vec(0..14u32, 24),
        mode in 0..6u8,
    ) {
        // Replaces about two thirds of the words by a TCP state, so that rows have every state.
        let words = rows
            .iter()
            .zip(states.iter().cycle())
            .map(|(any, state)| if any % 3 == 0 { *any } else { *state });
        let table: Vec<u8> = [count].into_iter().chain(words).flat_map(u32::to_le_bytes).collect();
        super::iphlpapi(&[&[mode, 40, 0][..], &table].concat());
        // The third value of each entry is the size of a row in words.
        let tables = [
            (Protocol::Tcp, false, 6),
            (Protocol::Tcp, true, 14),
            (Protocol::Udp, false, 3),
            (Protocol::Udp, true, 7),
        ];
        for (protocol, v6, size) in tables {
            let fit = (rows.len() / size).min(count as usize);
            prop_assert_eq!(iphlpapi::rows(&table, protocol, v6).len(), fit);
        }
    }
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn a_pick_tries_no_number_twice_and_none_that_is_reserved_or_excluded(
        bytes in vec(any::<u8>(), 8..64),
    ) {
        super::ports(&bytes);
    }

    #[test]
    fn a_pick_from_a_small_range_tries_every_number_of_it(
        low in any::<u16>(),
        count in 0..40u16,
        withheld in vec((0..60u16, 0..9u16), 0..5),
    ) {
        let low = low.max(1);
        let high = low.saturating_add(count);
        let withheld =
            withheld.into_iter().flat_map(|(at, count)| [low.saturating_add(at), count]);
        let numbers = [low, high, low, high].into_iter().chain(withheld);
        super::ports(&numbers.flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
    }
}

fn record() -> Record {
    Record {
        pid: 4100,
        started: NonZeroU64::new(123_456),
        program: "/target/debug/deps/restart-0123".to_owned(),
        test: "restart::keeps \\its\nport".to_owned(),
        at: "tests/restart.rs:17".to_owned(),
        label: "redis primary".to_owned(),
        command: "redis-server --port 60315".to_owned(),
        working_directory: "/home/ci/project".to_owned(),
        since: std::time::Duration::new(1_769_860_800, 5),
        socket: NonZeroU64::new(77),
        pid_namespace: NonZeroU64::new(4_026_531_836),
        on_behalf_of: Some(Beneficiary {
            pid: 4000,
            started: NonZeroU64::new(9),
        }),
        name: Some(StableName {
            name: "db".to_owned(),
            first_choice: 20123,
        }),
    }
}

/// Shows that the checks `is_row_of` and `distinct` can fail.
#[test]
fn a_violated_property_panics() {
    let row = crate::sockets::Row {
        protocol: Protocol::Tcp,
        local: ([127, 0, 0, 1], 1).into(),
        remote: None,
        state: State::Listen,
        uid: Some(0),
        inode: None,
        dual_stack: false,
        client: false,
        interface: None,
        queue: None,
    };
    assert!(std::panic::catch_unwind(|| super::is_row_of(&row, Protocol::Tcp)).is_err());
    assert!(std::panic::catch_unwind(|| super::distinct([1, 2, 1].into_iter())).is_err());
}
