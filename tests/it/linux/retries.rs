//! How long a call retries while another process has what it asks for: the table of `src/retry.rs`.
//!
//! The bounds are relative to what one `diagnose` of the port costs on this machine, and the
//! fastest of some calls counts: a loaded machine slows single calls.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use portlease::{ErrorKind, Reservation, ReserveOptions, ServerKind, check_each_port_free_for};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::support::args::Args;
use crate::support::fork;
use crate::support::helper::{self, Launch};
use crate::support::ports::{non_ephemeral_port, non_ephemeral_ports};
use crate::support::reserver::Reserver;
use crate::support::{DEADLINE, Folder, capability, eventually, need, print_line, test_name};

/// How many calls are timed at most, until one is quick.
const CALLS: usize = 20;

/// What a refused call may take in all, besides its scans: 100 ms of retries, and slack.
const REFUSED: Duration = Duration::from_millis(150);

/// How many scans the bound allows. A refused call scans the sockets, and scans them again for its
/// report. The third one allows for scans whose times differ.
const SCANS: u32 = 3;

/// A public call that is refused while another process has the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    IsFree,
    CheckFree,
    CheckFreeUdp,
    Reserve,
    ReserveUdp,
    ReservePlain,
}

impl Call {
    const ALL: [Call; 6] = [
        Call::IsFree,
        Call::CheckFree,
        Call::CheckFreeUdp,
        Call::Reserve,
        Call::ReserveUdp,
        Call::ReservePlain,
    ];

    fn operand(self, port: u16) -> String {
        match self {
            Call::CheckFreeUdp | Call::ReserveUdp => format!("{port}/udp"),
            _ => format!("{port}/tcp"),
        }
    }

    /// Makes the call, which is refused. Returns the message of the refusal, if the call has one,
    /// and how long the call took.
    fn refused(self, port: u16) -> (Option<String>, Duration) {
        let operand = self.operand(port);
        let begun = Instant::now();
        let message = match self {
            Call::IsFree => {
                assert!(!portlease::is_port_free(operand.as_str()));
                None
            }
            Call::CheckFree | Call::CheckFreeUdp => {
                let diagnosis = portlease::check_port_free(operand.as_str()).unwrap_err();
                Some(diagnosis.to_string())
            }
            Call::Reserve => Some(refusal(ReserveOptions::new().port(port))),
            Call::ReserveUdp => Some(refusal(ReserveOptions::new().udp().port(port))),
            Call::ReservePlain => Some(refusal(ReserveOptions::new().reuse_addr(false).port(port))),
        };
        (message, begun.elapsed())
    }

    /// A server on the port, for the protocol of the call.
    fn server(self, port: u16) -> OwnedFd {
        let addr = (Ipv4Addr::LOCALHOST, port);
        match self {
            Call::CheckFreeUdp | Call::ReserveUdp => UdpSocket::bind(addr).unwrap().into(),
            _ => TcpListener::bind(addr).unwrap().into(),
        }
    }
}

fn refusal(options: ReserveOptions) -> String {
    let error = options.reserve().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    error.to_string()
}

/// How long one `diagnose` of the port takes.
fn scan(operand: &str) -> Duration {
    let begun = Instant::now();
    let _diagnosis = portlease::diagnose(operand);
    begun.elapsed()
}

#[track_caller]
fn assert_quick(what: &str, operand: &str, mut call: impl FnMut() -> Duration) {
    let mut slow = Vec::new();
    for _ in 0..CALLS {
        let (took, scan) = (call(), scan(operand));
        if took <= REFUSED + SCANS * scan {
            return;
        }
        slow.push((took, scan));
    }
    panic!("{what}: (took, one scan): {slow:?}");
}

#[test]
fn a_port_that_a_live_process_has_is_refused_at_once() {
    let folder = Folder::new();
    let mut other = Reserver::new(&folder.locks());
    let pid = format!("pid {}", other.pid());
    for call in Call::ALL {
        let port = non_ephemeral_port();
        let serve = if call.operand(port).ends_with("udp") {
            "serve-udp"
        } else {
            "serve"
        };
        assert_eq!(other.command(&format!("{serve}={port}")), "serves");
        assert_quick(&format!("{call:?}"), &call.operand(port), || {
            let (message, took) = call.refused(port);
            assert!(message.is_none_or(|text| text.contains(&pid)));
            took
        });
    }
}

#[test]
fn a_release_whose_server_runs_in_a_live_process_is_refused_at_once() {
    let folder = Folder::new();
    let mut other = Reserver::new(&folder.locks());
    let pid = format!("pid {}", other.pid());
    let served = non_ephemeral_port();
    assert_eq!(other.command(&format!("serve={served}")), "serves");
    assert_quick("release", &served.to_string(), || {
        let p = portlease::reserve_port();
        assert_eq!(other.command(&format!("serve={p}")), "serves");
        let begun = Instant::now();
        let error = p.release().unwrap_err();
        let took = begun.elapsed();
        assert!(error.to_string().contains(&pid), "{error}");
        took
    });
}

/// The calls run in helper processes, which share their descriptors with their children. Each call
/// has a process of its own, so that all calls retry at the same time.
#[test]
fn a_port_that_a_forked_child_has_is_retried_for_two_seconds_and_then_at_once() {
    // Under an emulator the crate does not recognize the child as a forked child.
    need!(capability::native());
    let folder = Folder::new();
    let start = |name, args: String| Launch::new(name, &folder.locks()).args(args).start();
    let mut started: Vec<_> = (0..Call::ALL.len())
        .map(|call| start("calls-beside-forked-child", format!("call={call}")))
        .collect();
    started.push(start("releases-beside-forked-child", String::new()));
    let replies: Vec<_> = started.into_iter().flat_map(|one| one.succeed()).collect();
    print_line(&format!("{}: {}", test_name!(), replies.join(", ")));
}

/// The duration of a call that retries beside a new forked child.
const RETRIED: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(4);

pub(crate) fn call_beside_forked_child(args: &Args) {
    let call = Call::ALL[args.number::<usize>("call").unwrap()];
    let port = non_ephemeral_port();
    let server = call.server(port);
    let child = fork::idle_child();
    drop(server);
    let pid = format!("pid {}", child.pid());
    let (message, took) = call.refused(port);
    assert!(RETRIED.contains(&took), "{call:?}: {took:?}");
    assert!(
        message.as_ref().is_none_or(|text| text.contains(&pid)),
        "{call:?}: not {pid}: {message:?}"
    );
    // The child is older than 2 s by now.
    assert_quick(
        &format!("{call:?}, an old child"),
        &call.operand(port),
        || {
            let (message, took) = call.refused(port);
            assert!(message.is_none_or(|text| text.contains(&pid)));
            took
        },
    );
    helper::reply(&format!("{call:?} {took:?}"));
}

/// The retries of all ports of a check run at the same time. So a port whose child ends soon is
/// free, although another child keeps an earlier port of the check. A limit ends the retries
/// earlier.
#[test]
fn each_port_of_a_check_has_its_own_retries() {
    // Under an emulator the crate does not recognize the child as a forked child.
    need!(capability::native());
    let folder = Folder::new();
    let name = "check-beside-forked-children";
    let replies = Launch::new(name, &folder.locks()).start().succeed();
    print_line(&format!("{}: {}", test_name!(), replies.join(", ")));
}

pub(crate) fn check_beside_forked_children() {
    let ports = non_ephemeral_ports(2);
    let servers: Vec<OwnedFd> = ports
        .iter()
        .map(|port| Call::CheckFree.server(*port))
        .collect();
    let [kept, released] = <[OwnedFd; 2]>::try_from(servers).unwrap();
    let both = |at_most| check_each_port_free_for(&ports, ServerKind::ReuseAddr, at_most);
    let Some(short) = fork::in_two() else {
        drop(kept);
        // Most of the 2 s that the check retries for.
        std::thread::sleep(Duration::from_millis(1500));
        std::process::exit(0)
    };
    drop(released);
    let child = fork::idle_child();
    drop(kept);
    let begun = Instant::now();
    let results = both(Duration::from_millis(1));
    let limited = begun.elapsed();
    assert!(results.iter().all(Result::is_err), "{results:?}");
    // While the first two ports are retried, a thread takes the third port and releases the fourth.
    let taken = non_ephemeral_ports(2);
    let all: Vec<u16> = ports.iter().chain(&taken).copied().collect();
    let closing = Call::CheckFree.server(taken[1]);
    let changes = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(closing);
        Call::CheckFree.server(taken[0])
    });
    let results = check_each_port_free_for(&all, ServerKind::ReuseAddr, DEADLINE);
    let took = begun.elapsed();
    assert!(results[2].is_err() && results[3].is_ok(), "{results:?}");
    drop(changes.join().unwrap());
    let message = results[0].as_ref().unwrap_err().to_string();
    assert!(
        message.contains(&format!("pid {}", child.pid())),
        "{message}"
    );
    assert!(results[1].is_ok(), "{results:?}");
    assert!(RETRIED.contains(&took), "{took:?}");
    short.wait();
    drop(child);
    helper::reply(&format!("{took:?}, with the limit {limited:?}"));
}

pub(crate) fn release_beside_forked_child() {
    let release = |p: Reservation, pid: u32| {
        let begun = Instant::now();
        let error = p.release().unwrap_err();
        let took = begun.elapsed();
        assert!(error.to_string().contains(&format!("pid {pid}")), "{error}");
        took
    };
    let listening = || {
        let p = portlease::reserve_port();
        let server = p.listen().unwrap();
        let child = fork::idle_child();
        drop(server);
        (p, child)
    };
    // The child keeps the abstract name of a reservation without a claim. No lock file shows that.
    let udp = portlease::reserve_udp_port();
    let operand = format!("{udp}/udp");
    let child = fork::idle_child();
    drop(udp);
    let report = portlease::check_port_free(operand.as_str()).unwrap_err();
    let kept = format!("(pid {}), a forked child that still holds", child.pid());
    assert!(report.to_string().contains(&kept), "{report}");
    drop(child);
    portlease::check_port_free(operand.as_str()).unwrap();

    let (p, child) = listening();
    let took = release(p, child.pid());
    assert!(RETRIED.contains(&took), "release: {took:?}");
    helper::reply(&format!("release {took:?}"));

    let mut old: Vec<_> = (0..CALLS).map(|_| listening()).collect();
    let first = old[0].0.to_string();
    eventually("the children are older than 2 s", DEADLINE, || {
        // `is_port_free` returns `false` after its retries, or at once for an old child.
        let begun = Instant::now();
        assert!(!portlease::is_port_free(first.as_str()));
        match begun.elapsed() {
            took if took < REFUSED => Ok(()),
            took => Err(format!("{took:?}")),
        }
    });
    assert_quick("release, an old child", &first, || {
        let (p, child) = old.pop().unwrap();
        release(p, child.pid())
    });
}

/// A listener that no process has: it is on its way through a Unix socket, and never received.
struct Hidden {
    _ends: (UnixStream, UnixStream),
}

impl Hidden {
    fn on(port: u16) -> Hidden {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let ends = UnixStream::pair().unwrap();
        let descriptors = [listener.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(
            &ends.0,
            &[IoSlice::new(b"x")],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
        Hidden { _ends: ends }
    }
}

#[test]
fn five_hidden_owners_cost_one_call_no_more_than_one() {
    let ports = non_ephemeral_ports(5);
    let _hidden: Vec<Hidden> = ports.iter().map(|port| Hidden::on(*port)).collect();
    let (low, high) = (ports[0], ports[4]);
    let operand = low.to_string();
    let all = || ReserveOptions::new().range(low..=high);
    let timed = |act: &dyn Fn()| {
        let begun = Instant::now();
        act();
        begun.elapsed()
    };
    assert_quick("one of them", &operand, || Call::CheckFree.refused(low).1);
    assert_quick("an exact one", &operand, || Call::Reserve.refused(low).1);
    assert_quick("a range", &operand, || {
        timed(&|| drop(all().reserve().unwrap_err()))
    });
    assert_quick("several of a range", &operand, || {
        timed(&|| drop(all().reserve_many(2).unwrap_err()))
    });
    assert_quick("a block", &operand, || {
        timed(&|| drop(all().reserve_block(5).unwrap_err()))
    });
    assert_quick("preferred ones", &operand, || {
        timed(&|| {
            drop(
                ReserveOptions::new()
                    .prefer(ports.clone())
                    .reserve()
                    .unwrap(),
            )
        })
    });
}
