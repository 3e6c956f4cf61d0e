//! Decodes the text files of `/proc` (`proc(5)`). No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU64;
use std::time::Duration;

use super::super::Row;
use super::sock_diag::Order;
use crate::model::endpoint::Protocol;
use crate::model::process::ProcessState;

/// Decodes the rows of `/proc/net/{tcp,udp,udplite}{,6}` with this local port. For the port 0,
/// decodes all rows. Skips lines that are not rows.
pub(crate) fn sockets(
    text: &str,
    order: Order,
    protocol: Protocol,
    port: u16,
) -> impl Iterator<Item = Row> + '_ {
    text.lines()
        .filter_map(move |line| socket(line, order, protocol))
        .filter(move |row| port == 0 || row.local.port() == port)
}

fn socket(line: &str, order: Order, protocol: Protocol) -> Option<Row> {
    let mut words = line.split_ascii_whitespace();
    let local = address(words.nth(1)?, order)?;
    let remote = address(words.next()?, order)?;
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let uid = words.nth(3)?.parse().ok()?;
    let inode = NonZeroU64::new(words.nth(1)?.parse().ok()?);
    Some(Row {
        protocol,
        local,
        remote: (remote.port() != 0 || !remote.ip().is_unspecified()).then_some(remote),
        state: super::linux_state::state(protocol, state),
        uid: Some(uid).filter(|_| inode.is_some()),
        inode,
        // The file does not show whether the socket is dual stack. By default an IPv6 socket of
        // Linux is dual stack, so every IPv6 wildcard counts as dual stack. A wrong guess hides no
        // conflict, but can add a conflict to a report. After a wrong guess, an IPv6-only server
        // counts as listening on IPv4 addresses too.
        dual_stack: matches!(local, SocketAddr::V6(v6) if v6.ip().is_unspecified()),
        client: false,
        interface: None,
        queue: None,
    })
}

/// Decodes an address and a port. The kernel prints the address as 32-bit words in machine order.
fn address(text: &str, order: Order) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = [0; 16];
    let words = ip.as_bytes().chunks(8);
    let count = words.len();
    for (word, four) in words.zip(bytes.chunks_mut(4)) {
        let word = std::str::from_utf8(word)
            .ok()
            .filter(|word| word.len() == 8)?;
        let value = u32::from_str_radix(word, 16).ok()?;
        four.copy_from_slice(&match order {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        });
    }
    match count {
        1 => {
            let [a, b, c, d, ..] = bytes;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port))
        }
        4 => Some(SocketAddr::V6(SocketAddrV6::new(
            Ipv6Addr::from(bytes),
            port,
            0,
            0,
        ))),
        _ => None,
    }
}

/// The inode in a line of `/proc/net/unix`. Returns `None` if the line does not show the abstract
/// socket `name`.
pub(crate) fn abstract_socket(line: &str, name: &str) -> Option<NonZeroU64> {
    let (socket, path) = line.split_once(" @")?;
    if path != name {
        None
    } else {
        socket.split_ascii_whitespace().nth(6)?.parse().ok()
    }
}

/// The fields of `/proc/PID/stat` that this crate reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) name: String,
    pub(crate) parent: u32,
    /// The id of the process group (setpgid(2)).
    pub(crate) group: u32,
    /// The id of the session (setsid(2)).
    pub(crate) session: u32,
    /// `true` if the process has a controlling terminal, and its process group is not the
    /// foreground group of that terminal.
    pub(crate) in_background: bool,
    /// A process whose first thread has ended counts as running while another thread runs.
    pub(crate) state: ProcessState,
    /// `true` if the first thread has ended and another thread of the process runs. The folder
    /// `/proc/PID` then shows neither descriptors nor the program. The folders of the other
    /// threads, in `/proc/PID/task`, still show both.
    pub(crate) first_thread_ended: bool,
    /// `true` if the process has not called exec since it was forked (PF_FORKNOEXEC).
    pub(crate) forked: bool,
    /// The time from boot to the start of the process, in units of 10 ms.
    pub(crate) started: u64,
}

const PF_FORKNOEXEC: u64 = 0x40;

/// The pid at the start of `/proc/PID/stat`.
#[cfg(target_os = "linux")]
pub(crate) fn pid(stat: &[u8]) -> Option<u32> {
    let digits = stat.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Decodes `/proc/PID/stat`. The name of the process can contain brackets and line ends. So the
/// name ends at the last closing bracket of the file.
pub(crate) fn stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes
        .iter()
        .rposition(|b| *b == b')')
        .filter(|close| *close > open)?;
    let mut fields = std::str::from_utf8(&bytes[close + 1..])
        .ok()?
        .split_ascii_whitespace();
    let letter = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let terminal: i64 = fields.next()?.parse().ok()?;
    let foreground: i64 = fields.next()?.parse().ok()?;
    let flags: u64 = fields.next()?.parse().ok()?;
    let threads: u32 = fields.nth(10)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    let has_ended = matches!(letter, "Z" | "X");
    let first_thread_ended = has_ended && threads > 1;
    let state = match letter {
        _ if has_ended && !first_thread_ended => ProcessState::Zombie,
        "T" => ProcessState::Suspended,
        "t" => ProcessState::Traced,
        _ => ProcessState::Running,
    };
    let name = String::from_utf8_lossy(&bytes[open + 1..close]).into_owned();
    Some(Stat {
        name,
        parent,
        group,
        session,
        in_background: terminal != 0 && foreground != i64::from(group),
        state,
        first_thread_ended,
        forked: flags & PF_FORKNOEXEC != 0,
        started,
    })
}

/// The effective user, from `/proc/PID/status`. The folder `/proc/PID` does not always belong to
/// this user. If the process is not dumpable (prctl(2)), such as a daemon that changed its user,
/// root owns the folder.
pub(crate) fn effective_uid(status: &[u8]) -> Option<u32> {
    value(status, b"Uid:")?
        .split_ascii_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Returns `true` if the user namespace of a process has the user `uid`. `map` is the text of
/// `/proc/PID/uid_map`. Each line has three numbers: the first uid of a range inside the namespace,
/// the first uid of the same range outside, and the number of uids.
pub(crate) fn maps_user(map: &[u8], uid: u32) -> bool {
    let is_in = |line: &[u8]| {
        let line = std::str::from_utf8(line).unwrap_or_default();
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u32>);
        match (fields.next(), fields.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => uid.checked_sub(first).is_some_and(|n| n < count),
            _ => false,
        }
    };
    map.split(|byte| *byte == b'\n').any(is_in)
}

/// Returns `true` if `/proc/PID/status` shows that the kernel is writing a core file of the
/// process.
#[cfg(target_os = "linux")]
pub(crate) fn dumps_core(status: &[u8]) -> bool {
    value(status, b"CoreDumping:").is_some_and(|value| value.trim() == "1")
}

/// Returns `true` if the signal set with the label `set`, such as `SigIgn:`, contains SIGTERM.
/// `file` is the text of a file of `/proc`. A set is a hexadecimal number, and its lowest bit
/// stands for signal 1.
#[cfg(target_os = "linux")]
pub(crate) fn has_sigterm(file: &[u8], set: &str) -> bool {
    const SIGTERM: u32 = 15;
    let set = value(file, set.as_bytes());
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set >> (SIGTERM - 1) & 1 == 1)
}

/// Returns `true` if the process of this `/proc/PID/status` is the first one of a nested pid
/// namespace. `NSpid` lists the pids of the process, from the namespace of `/proc` down to the
/// innermost one. The first process of a nested namespace has several pids, and the last pid is 1.
#[cfg(target_os = "linux")]
pub(crate) fn is_init_elsewhere(status: &[u8]) -> bool {
    let pids = value(status, b"NSpid:").map(str::split_ascii_whitespace);
    pids.is_some_and(|mut pids| pids.next().is_some() && pids.next_back() == Some("1"))
}

/// The pid of the process in its innermost pid namespace: the last number of the line `NSpid` in
/// `/proc/PID/status`.
pub(crate) fn innermost_pid(status: &[u8]) -> Option<u32> {
    value(status, b"NSpid:")?
        .split_ascii_whitespace()
        .next_back()?
        .parse()
        .ok()
}

/// The pid of the process that locked the open file (flock(2)), from `/proc/PID/fdinfo/FD`. A
/// forked child shares the lock, and its `fdinfo` has the pid of its parent. An example of the line
/// is `lock: 1: FLOCK  ADVISORY  WRITE 4242 08:01:131 0 EOF`.
#[cfg(target_os = "linux")]
pub(crate) fn locker(fdinfo: &[u8]) -> Option<u32> {
    value(fdinfo, b"lock:")?
        .split_ascii_whitespace()
        .nth(4)?
        .parse()
        .ok()
}

/// The pid of the process that the thread belongs to: the line `Tgid` in `/proc/PID/status`.
pub(crate) fn thread_group(status: &[u8]) -> Option<u32> {
    value(status, b"Tgid:")?.trim_ascii().parse().ok()
}

/// The text after the label in the first line that begins with the label.
fn value<'a>(text: &'a [u8], label: &[u8]) -> Option<&'a str> {
    let value = split(text, b'\n').find_map(|line| line.strip_prefix(label))?;
    std::str::from_utf8(value).ok()
}

fn split(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    bytes.split(move |b| *b == separator)
}

/// The time since boot, from `/proc/uptime`. The file counts in units of 10 ms, like
/// [`Stat::started`].
pub(crate) fn uptime(text: &[u8]) -> Option<Duration> {
    let (seconds, hundredths) = std::str::from_utf8(text)
        .ok()?
        .split_whitespace()
        .next()?
        .split_once('.')?;
    let hundredths: u64 = if hundredths.len() == 2 {
        hundredths.parse().ok()?
    } else {
        return None;
    };
    Some(Duration::from_secs(seconds.parse().ok()?) + Duration::from_millis(hundredths * 10))
}

/// The inode in `socket:[123]`, the target of a link in `/proc/PID/fd`.
pub(crate) fn socket_inode(link: &[u8]) -> Option<NonZeroU64> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The inodes of the sockets that an io_uring owns, from the `fdinfo` of the io_uring.
pub(crate) fn ring_inodes(fdinfo: &[u8]) -> impl Iterator<Item = NonZeroU64> + '_ {
    fdinfo
        .split(u8::is_ascii_whitespace)
        .filter_map(socket_inode)
}

/// The number of descriptors that were sent through a Unix socket and not received yet, from the
/// `fdinfo` of the socket.
pub(crate) fn in_flight(fdinfo: &[u8]) -> u32 {
    value(fdinfo, b"scm_fds:")
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// The number and the name of each user in `/etc/passwd`. If a user has several lines, the first
/// one counts, as in `getpwuid(3)`.
pub(crate) fn users(passwd: &[u8]) -> Vec<(u32, String)> {
    let mut users: Vec<(u32, String)> = Vec::new();
    for line in split(passwd, b'\n') {
        let mut fields = split(line, b':');
        let (Some(name), Some(uid)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        let uid = std::str::from_utf8(uid)
            .ok()
            .and_then(|uid| uid.parse().ok());
        if let Some(uid) =
            uid.filter(|uid| !name.is_empty() && users.iter().all(|(known, _)| known != uid))
        {
            users.push((uid, String::from_utf8_lossy(name).into_owned()));
        }
    }
    users
}

/// The arguments in `/proc/PID/cmdline`.
pub(crate) fn arguments(cmdline: &[u8]) -> impl Iterator<Item = &[u8]> {
    let cmdline = cmdline.strip_suffix(b"\0").unwrap_or(cmdline);
    // An empty file has no argument. A single NUL counts as no argument too. It could be one empty
    // argument, but usually the program has erased its arguments.
    split(cmdline, 0).skip(usize::from(cmdline.is_empty()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::state::State;

    // These tables were captured on Linux 6.18, x86-64. They show the same sockets as the answers
    // in the tests of `sock_diag`.
    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:D054 0100007F:84A3 01 00000000:00000000 00:00000000 00000000     0        0 2005233 2 00000000c86839d2 20 0 0 10 -1
   1: 0100007F:D064 0100007F:84A3 05 00000000:00000000 03:00001770 00000000     0        0 0 3 00000000344b5c83
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:84A3 00000000000000000000000000000000:0000 0A 00000000:00000001 00:00000000 00000000     0        0 2005231 2 00000000139e8ade 100 0 0 10 0
   1: 0000000000000000FFFF00000100007F:84A3 0000000000000000FFFF00000100007F:D054 01 00000000:00000000 00:00000000 00000000     0        0 2005234 1 00000000765a05cc 20 0 0 10 -1
   2: 00000000000000000000000001000000:8630 00000000000000000000000001000000:84A3 08 00000000:00000001 00:00000000 00000000     0        0 2005235 2 00000000a151d166 20 4 0 10 -1
   3: 0000000000000000FFFF00000100007F:84A3 0000000000000000FFFF00000100007F:D064 08 00000000:00000001 00:00000000 00000000     0        0 0 1 00000000c726a780 20 4 0 10 -1
   4: 00000000000000000000000001000000:84A3 00000000000000000000000001000000:8630 05 00000000:00000000 03:00001770 00000000     0        0 0 3 0000000042591968
";
    const UDP: &str = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 8754: 0100007F:84A3 0100007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 2005239 2 00000000d549f37f 0
";
    const UDP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 8754: 00000000000000000000000000000000:84A3 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2005240 2 0000000020f68afb 0
";

    pub(crate) const CAPTURED: [&str; 4] = [TCP, TCP6, UDP, UDP6];

    /// Samples of what the decoders read: `stat`, `status`, the `fdinfo` of an io_uring and of a
    /// socket, a link, users, a command line.
    pub(crate) const OF_A_PROCESS: [&[u8]; 7] = [
        b"7 (a) b\n(c) S 41 7 7 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 1 0 123456 1 2\n",
        b"Name:\tx\nUmask:\t0022\nUid:\t1000\t33\t0\t0\nGid:\t5\t5\t5\t5\n",
        b"pos:\t0\nUserFiles:\t2\n    0: socket:[77]\n    1: /etc/passwd\n    2: socket:[78]\n",
        b"pos:\t0\nflags:\t02\nscm_fds: 3\n",
        b"socket:[2005233]",
        b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n+::::::\n\n\
          ci:x:1000:1000:\xff:/:/bin/sh\n",
        b"redis-server\0--port\x006379\0\0--save\0",
    ];

    fn rows(text: &str, protocol: Protocol, port: u16) -> Vec<Row> {
        sockets(text, Order::Little, protocol, port).collect()
    }

    #[test]
    fn captured_tables_are_decoded_row_by_row() {
        let v4 = rows(TCP, Protocol::Tcp, 0);
        assert_eq!(v4.len(), 2);
        assert_eq!(v4[0].local, "127.0.0.1:53332".parse().unwrap());
        assert_eq!(v4[0].remote, Some("127.0.0.1:33955".parse().unwrap()));
        assert_eq!(
            (v4[0].state, v4[0].uid, v4[0].inode),
            (State::Established, Some(0), NonZeroU64::new(2_005_233))
        );
        assert_eq!(
            (v4[1].state, v4[1].uid, v4[1].inode),
            (State::FinWait2, None, None)
        );

        let v6 = rows(TCP6, Protocol::Tcp, 33955);
        assert_eq!(
            v6.iter().map(|row| row.state).collect::<Vec<_>>(),
            [
                State::Listen,
                State::Established,
                State::CloseWait,
                State::FinWait2
            ]
        );
        assert_eq!(
            (v6[0].local, v6[0].remote, v6[0].dual_stack),
            ("[::]:33955".parse().unwrap(), None, true)
        );
        assert_eq!(v6[1].local, "[::ffff:127.0.0.1]:33955".parse().unwrap());
        assert_eq!(v6[3].remote, Some("[::1]:34352".parse().unwrap()));

        assert_eq!(rows(UDP, Protocol::Udp, 33955)[0].state, State::Connected);
        assert_eq!(rows(UDP6, Protocol::Udp, 33955)[0].state, State::Bound);
        assert_eq!(rows(UDP6, Protocol::Udp, 33956), []);
    }

    #[test]
    fn a_big_endian_machine_reads_its_own_order() {
        let line = "0: 7F000001:84A3 00000000:0000 0A 0:0 00:0 0 1000 0 77 1";
        let row: Vec<Row> = sockets(line, Order::Big, Protocol::Tcp, 0).collect();
        assert_eq!(row[0].local, "127.0.0.1:33955".parse().unwrap());
        assert_eq!(
            (row[0].uid, row[0].inode),
            (Some(1000), NonZeroU64::new(77))
        );
    }

    #[test]
    fn no_truncation_panics_and_an_odd_line_is_skipped() {
        for text in [TCP, TCP6, UDP, UDP6] {
            for cut in 0..text.len() {
                rows(&text[..cut], Protocol::Tcp, 0);
            }
        }
        for line in [
            "",
            "0:",
            "0: 0100007F:84A3",
            "0: 0100007:84A3 00000000:0000 0A",
            "0: é100007F:84A3 00000000:0000 0A 0 0 0 0 0 1",
            "0: 0100007F:84A3 00000000:0000 ZZ 0:0 00:0 0 0 0 1",
        ] {
            assert_eq!(rows(line, Protocol::Tcp, 0), [], "{line:?}");
        }
        let odd = TCP.replace(" 01 ", " 4D ");
        assert_eq!(rows(&odd, Protocol::Tcp, 0)[0].state, State::Unknown(0x4d));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_that_locked_a_file_is_read() {
        let info = b"pos:\t0\nino:\t131\nlock:\t1: FLOCK  ADVISORY  WRITE 4242 08:01:131 0 EOF\n";
        assert_eq!(locker(info), Some(4242));
        for other in [
            &b"pos:\t0\n"[..],
            b"lock:",
            b"lock:\t1: FLOCK",
            b"lock:\ta b c d e",
        ] {
            assert_eq!(locker(other), None);
        }
    }

    #[test]
    fn a_process_can_have_any_name() {
        let tail = b" S 41 7 6 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 1 0 123456 1 2";
        for name in ["sleep", "a) b\n(c", "", ")", "((", "\u{1b}[31m"] {
            let text = [b"7 (", name.as_bytes(), b")", &tail[..]].concat();
            assert_eq!(
                stat(&text),
                Some(Stat {
                    name: name.to_owned(),
                    parent: 41,
                    group: 7,
                    session: 6,
                    in_background: false,
                    state: ProcessState::Running,
                    first_thread_ended: false,
                    forked: false,
                    started: 123_456
                }),
                "{name:?}"
            );
            let copy = String::from_utf8_lossy(&text).replace(" 4194304 ", " 4194368 ");
            assert!(stat(copy.as_bytes()).unwrap().forked);
            for (terminal, in_background) in [(" 6 34816 7 ", false), (" 6 34816 41 ", true)] {
                let text = String::from_utf8_lossy(&text).replace(" 6 0 -1 ", terminal);
                assert_eq!(stat(text.as_bytes()).unwrap().in_background, in_background);
            }
        }
        let whole = [b"7 (a \xff)", &tail[..]].concat();
        assert_eq!(stat(&whole).unwrap().name, "a \u{fffd}");
        for cut in 0..whole.len() {
            stat(&whole[..cut]);
        }
        assert_eq!(stat(b") 7 ("), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_signals_and_the_pids_of_a_status_are_read() {
        let status = b"Name:\tSigIgn:\nNSpid:\t4242\t17\t1\nSigBlk:\t0000000000000000\n\
            SigIgn:\tfffffffffffff000\nSigCgt:\t0000000000004000\n";
        assert!(has_sigterm(status, "SigIgn:") && has_sigterm(status, "SigCgt:"));
        assert!(!has_sigterm(status, "SigBlk:") && !has_sigterm(status, "ShdPnd:"));
        assert!(is_init_elsewhere(status));
        for other in ["1", "4242", "4242\t17", ""] {
            assert!(
                !is_init_elsewhere(format!("NSpid:\t{other}\n").as_bytes()),
                "{other}"
            );
        }
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_runs_while_it_has_another() {
        let of = |letter, threads| {
            let text =
                format!("7 (a) {letter} 41 7 6 0 -1 4 1 0 0 0 5 6 0 0 20 0 {threads} 0 12 1");
            let stat = stat(text.as_bytes()).unwrap();
            (stat.state, stat.first_thread_ended)
        };
        assert_eq!(of("Z", 1), (ProcessState::Zombie, false));
        // gVisor reports 0 as the number of threads.
        assert_eq!(of("Z", 0), (ProcessState::Zombie, false));
        assert_eq!(of("Z", 2), (ProcessState::Running, true));
        assert_eq!(of("T", 2), (ProcessState::Suspended, false));
        assert_eq!(of("t", 2), (ProcessState::Traced, false));
        assert_eq!(of("S", 2), (ProcessState::Running, false));
    }

    #[test]
    fn an_abstract_socket_is_found_by_its_name() {
        let line =
            "0000000000000000: 00000002 00000000 00000000 0002 01 41234 @portlease/udp/60315";
        assert_eq!(
            abstract_socket(line, "portlease/udp/60315"),
            NonZeroU64::new(41234)
        );
        assert_eq!(abstract_socket(line, "portlease/udp/6031"), None);
        assert_eq!(
            abstract_socket(&line.replace(" @", " /"), "portlease/udp/60315"),
            None
        );
        assert_eq!(
            abstract_socket("Num RefCount Protocol Flags Type St Inode Path", "x"),
            None
        );
        assert_eq!(abstract_socket("1: @x", "x"), None);
    }

    #[test]
    fn the_effective_user_is_the_second_number() {
        assert_eq!(
            effective_uid(b"Name:\tx\nUid:\t1000\t33\t0\t0\nGid:\t5\t5\t5\t5\n"),
            Some(33)
        );
        assert_eq!(effective_uid(b"Name:\tx\nUid:\t1000"), None);
    }

    #[test]
    fn a_user_is_mapped_by_the_range_that_contains_it() {
        let map = b"         0      1000          1\n         1    100000      65534\n";
        assert_eq!(
            [0, 1, 65534, 65535].map(|uid| maps_user(map, uid)),
            [true, true, true, false]
        );
        assert!(maps_user(b"0 0 4294967295\n", 65534));
        assert!(!maps_user(b"0 1000 1\n", 65534));
        assert!(!maps_user(b"", 0) && !maps_user(b"0 0\n\xff 0 9\n", 0));
    }

    #[test]
    fn the_pid_of_the_innermost_namespace_is_the_last_number() {
        assert_eq!(innermost_pid(b"Pid:\t71\nNSpid:\t71\t5\t1\n"), Some(1));
        assert_eq!(innermost_pid(b"NSpid:\t71\n"), Some(71));
        assert_eq!(innermost_pid(b"NSpid:\t\n"), None);
        assert_eq!(innermost_pid(b"Pid:\t71\n"), None);
    }

    #[test]
    fn the_process_of_a_thread_is_read() {
        assert_eq!(thread_group(b"Name:\tx\nTgid:\t71\nPid:\t72\n"), Some(71));
        assert_eq!(thread_group(b"Pid:\t72\n"), None);
    }

    #[test]
    fn the_first_number_of_uptime_is_the_time_since_boot() {
        assert_eq!(
            uptime(b"350735.47 234388.90\n"),
            Some(Duration::from_millis(350_735_470))
        );
        assert_eq!(uptime(b"7.05 1.00\n"), Some(Duration::from_millis(7050)));
        for text in [
            &b""[..],
            b"7",
            b"7.",
            b"7.5 1.00",
            b".05 1.00",
            b"7.100 1.00",
            b"-7.05 1.00",
            b"\xff.05",
        ] {
            assert_eq!(uptime(text), None);
        }
    }

    #[test]
    fn links_rings_and_descriptors_in_flight_are_read() {
        assert_eq!(
            socket_inode(b"socket:[2005233]"),
            NonZeroU64::new(2_005_233)
        );
        for link in [
            &b"socket:[]"[..],
            b"socket:[12",
            b"pipe:[12]",
            b"socket:[1x]",
            b"",
            b"socket:[99999999999999999999]",
        ] {
            assert_eq!(socket_inode(link), None);
        }
        let ring =
            b"pos:\t0\nUserFiles:\t2\n    0: socket:[77]\n    1: /etc/passwd\n    2: socket:[78]\n";
        let inodes: Vec<u64> = ring_inodes(ring).map(NonZeroU64::get).collect();
        assert_eq!(inodes, [77, 78]);
        assert_eq!(in_flight(b"pos:\t0\nscm_fds: 3\n"), 3);
        assert_eq!(in_flight(b"pos:\t0\nscm_fds: 0\n"), 0);
        assert_eq!(in_flight(b"pos:\t0\n"), 0);
    }

    #[test]
    fn the_first_line_of_a_user_counts_and_odd_lines_are_skipped() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n+::::::\n\n\
                       ci:x:1000:1000:\xff:/:/bin/sh\nx:y\n:x:5:5::/:";
        assert_eq!(
            users(passwd),
            [(0, "root".to_owned()), (1000, "ci".to_owned())]
        );
    }

    #[test]
    fn arguments_are_separated_by_nul_bytes() {
        assert_eq!(arguments(b"").count(), 0);
        assert_eq!(
            arguments(b"a\0\0b c\0").collect::<Vec<_>>(),
            [&b"a"[..], b"", b"b c"]
        );
        assert_eq!(
            arguments(b"nginx: master").collect::<Vec<_>>(),
            [b"nginx: master"]
        );
    }
}
