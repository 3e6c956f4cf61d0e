//! Beside threads that spawn children: what a forked child shares until its exec is in nobody's way.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portlease::{ErrorKind, Protocol, ReserveOptions};

use crate::numbers::{quiet_number, quiet_range};
use crate::outsider::{self, Reuse, V4};
use crate::support::{self, DEADLINE, Folder, Launch, Words, capability, eventually, need};

#[test]
fn an_exact_port_let_go_is_never_refused_beside_threads_that_spawn() {
    let folder = Folder::new();
    let number = quiet_number();
    let said = Launch::new("spawner", &folder.locks())
        .args(format!("port={number}"))
        .start()
        .succeed();
    support::tell(&format!("{}: {}", support::test_name!(), said.join(" ")));
}

#[test]
fn all_ports_of_a_range_let_go_are_never_refused_beside_threads_that_spawn() {
    let folder = Folder::new();
    let ports = quiet_range(4);
    for how in ["many", "block"] {
        let args = format!("range={}-{} how={how}", ports[0], ports[3]);
        let said = Launch::new("spawner", &folder.locks())
            .args(args)
            .start()
            .succeed();
        support::tell(&format!(
            "{}: {how}: {}",
            support::test_name!(),
            said.join(" ")
        ));
    }
}

/// Tells the threads that spawn when it is dropped, also by a check that fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Threads that do nothing else, until what it returns is dropped.
fn spawn_children<'scope, 'env>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    over: &'scope AtomicBool,
) -> Over<'scope> {
    for _ in 0..3 {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert!(Command::new("true").status().unwrap().success());
            }
        });
    }
    Over(over)
}

/// The role. A child that was forked at the moment of the release shares the claim until it execs.
pub(crate) fn re_reserve_beside_spawning_threads(words: &Words) {
    let times = if words.get("port").is_some() {
        5000
    } else {
        500
    };
    let reserve = || match words.numbers("range")[..] {
        [low, high] => {
            let (range, n) = (
                ReserveOptions::new().range(low..=high),
                usize::from(high - low) + 1,
            );
            if words.get("how") == Some("block") {
                range.reserve_block(n)
            } else {
                range.reserve_many(n)
            }
        }
        _ if words.get("prefer").is_some() => {
            let preferred = words.number("prefer").unwrap();
            let p = ReserveOptions::new().prefer([preferred]).reserve();
            p.inspect(|p| assert_eq!(p.port(), preferred))
                .map(|one| vec![one])
        }
        _ => ReserveOptions::new()
            .port(words.number("port").unwrap())
            .reserve()
            .map(|one| vec![one]),
    };
    let (done, spawned) = (AtomicBool::new(false), std::sync::atomic::AtomicU32::new(0));
    let (mut slowest, mut retried) = (Duration::ZERO, 0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let status = Command::new("true").stdin(Stdio::null()).status();
                    assert!(status.unwrap().success());
                    spawned.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let over = Over(&done);
        eventually("children are spawned", DEADLINE, || {
            match spawned.load(Ordering::Relaxed) {
                0 => Err("none yet".to_owned()),
                _ => Ok(()),
            }
        });
        let mut refused = Vec::new();
        for round in 0..times {
            let begun = Instant::now();
            match reserve() {
                Ok(reservations) => drop(reservations),
                Err(e) => refused.push(format!("round {round}: {e}")),
            }
            slowest = slowest.max(begun.elapsed());
            retried += u32::from(begun.elapsed() > Duration::from_millis(1));
        }
        drop(over);
        assert!(
            refused.is_empty(),
            "{} of {times} refused: {:?}",
            refused.len(),
            refused.first()
        );
    });
    support::say(&format!(
        "{times} times, none refused, {} children, {retried} took more than 1 ms, the slowest {slowest:?}",
        spawned.load(Ordering::Relaxed)
    ));
}

/// A child that was forked while reserving tried the number shares the socket of that try until it execs.
#[test]
fn a_number_without_a_claim_is_bound_at_once_beside_threads_that_spawn() {
    let folder = Folder::new();
    let said = Launch::new("binds-beside-spawning-threads", &folder.locks())
        .start()
        .succeed();
    support::tell(&format!("{}: {}", support::test_name!(), said.join(" ")));
}

/// The role.
pub(crate) fn bind_beside_spawning_threads() {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = spawn_children(scope, &over);
        const ROUNDS: u32 = 100;
        const ROUNDS_AT_MOST: u32 = 5_000;
        let (mut refused, mut control, mut rounds) = (Vec::new(), 0, 0);
        let mut note = |what: &str, bound: std::io::Result<()>| {
            refused.extend(bound.err().map(|e| format!("{what}: {e}")));
        };
        // Until the control has met one too.
        while rounds < ROUNDS || control == 0 && rounds < ROUNDS_AT_MOST {
            rounds += 1;
            let udp = ReserveOptions::new().udp().reserve().unwrap();
            note("UDP", UdpSocket::bind(udp.addr()).map(drop));
            let plain = ReserveOptions::new().reuse_addr(false).reserve().unwrap();
            note(
                "plain",
                outsider::bind(V4, plain.port(), Reuse::Neither).map(drop),
            );
            let pair = ReserveOptions::new()
                .tcp_and_udp()
                .reuse_addr(false)
                .reserve()
                .unwrap();
            portlease::wait_until_free(&pair, DEADLINE).unwrap();
            note(
                "plain and free",
                outsider::bind(V4, pair.port(), Reuse::Neither).map(drop),
            );
            portlease::wait_until_free(udp.port(), DEADLINE).unwrap();
            note(
                "free for a server that shares",
                TcpListener::bind(("127.0.0.1", udp.port())).map(drop),
            );
            // The control: looks that are nothing but a bind.
            control += (0..10)
                .filter(|_| UdpSocket::bind(pair.addr()).is_err())
                .count();
        }
        assert!(
            refused.is_empty(),
            "{} of {rounds} rounds: {}",
            refused.len(),
            refused[0]
        );
        assert!(
            control > 0,
            "no child had a bare look's socket, so nothing was shown"
        );
        support::say(&format!(
            "{rounds} rounds, none refused, after a bare look {control}"
        ));
    });
}

/// The role: servers of this process are closed, and looked for at once, beside threads that spawn children.
pub(crate) fn checks_beside_spawning_threads() {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = spawn_children(scope, &over);
        const ROUNDS: u32 = 150;
        const ROUNDS_AT_MOST: u32 = 5_000;
        let (mut shared, mut rounds) = (0, 0);
        // Until the control has met one too.
        while rounds < ROUNDS || shared == 0 && rounds < ROUNDS_AT_MOST {
            rounds += 1;
            let p = portlease::reserve_port();
            drop(p.listen().unwrap());
            // The control: a bare look meets the listener that a forked child has.
            shared += u32::from(TcpListener::bind(p.addr()).is_err());
            drop(p.listen().unwrap());
            portlease::assert_port_free(&p);
            drop(p.listen().unwrap());
            p.release().unwrap();
        }
        crate::support::say(&format!("shared={shared} rounds={rounds}"));
    });
}

#[test]
fn a_server_just_closed_is_gone_for_every_check_beside_threads_that_spawn() {
    let folder = Folder::new();
    let said = Launch::new("checker", &folder.locks()).start().succeed();
    support::tell(&format!(
        "{}: {said:?} bare binds were refused",
        support::test_name!()
    ));
    assert!(
        !said[0].starts_with("shared=0 "),
        "the control: no child had a listener, so nothing was shown"
    );
}

/// Then no record tells which of the sockets is the reservation's own.
#[test]
fn a_server_just_closed_is_gone_for_every_check_also_where_the_lock_folder_cannot_be_used() {
    let folder = Folder::new();
    std::fs::write(folder.locks(), "no folder").unwrap();
    let said = Launch::new("checker", &folder.locks()).start().succeed();
    assert!(
        !said[0].starts_with("shared=0 "),
        "the control: no child had a listener, so nothing was shown"
    );
}

/// The role: the same over connections of a server with SO_REUSEADDR in TIME_WAIT, which admit the next one.
pub(crate) fn checks_over_time_wait_beside_spawning_threads() {
    let p = portlease::reserve_port();
    let server = p.listen().unwrap();
    let client = std::net::TcpStream::connect(p.addr()).unwrap();
    // The server closes first, and so it has the TIME_WAIT.
    drop(server.accept().unwrap());
    drop((client, server));
    eventually("a connection in TIME_WAIT", DEADLINE, || {
        let holders = portlease::who_holds(&p).unwrap();
        let waits = holders
            .iter()
            .any(|holder| holder.state == portlease::State::TimeWait);
        if waits {
            Ok(())
        } else {
            Err(holders.to_string())
        }
    });
    let over = AtomicBool::new(false);
    let mut refused = Vec::new();
    std::thread::scope(|scope| {
        let _over = spawn_children(scope, &over);
        // Less than a minute, after which nothing is left to be blamed.
        let begun = Instant::now();
        for _ in 0..20_000 {
            if begun.elapsed() > Duration::from_secs(3) {
                break;
            }
            drop(p.listen().unwrap());
            refused.extend(portlease::check_port_free(&p).err().map(|e| e.to_string()));
        }
    });
    assert!(
        refused.is_empty(),
        "{} refused: {}",
        refused.len(),
        refused[0]
    );
}

#[test]
fn a_server_just_closed_is_not_taken_for_the_time_wait_that_it_left() {
    let folder = Folder::new();
    Launch::new("checker-over-time-wait", &folder.locks())
        .start()
        .succeed();
}

/// How long a child takes to its exec, as on a starved machine.
const STUCK: Duration = Duration::from_millis(1500);

/// A child that shares what this process has on the port, and exits when it has come to its exec. Others may share it too.
#[expect(
    unsafe_code,
    reason = "pre_exec is the way to stop a child before its exec"
)]
fn stuck_child(endpoint: &str) -> std::thread::JoinHandle<()> {
    use std::os::unix::process::CommandExt;
    let mut child = Command::new("true");
    // SAFETY: nanosleep(2) is a system call that takes no lock and allocates nothing.
    unsafe {
        child.pre_exec(|| {
            std::thread::sleep(STUCK);
            Ok(())
        })
    };
    let starter = std::thread::spawn(move || assert!(child.status().unwrap().success()));
    eventually("a child shares the socket", DEADLINE, || {
        let holders = portlease::who_holds(endpoint).unwrap();
        let shared = holders.iter().any(|holder| holder.processes.len() > 1);
        if shared {
            Ok(())
        } else {
            Err(holders.to_string())
        }
    });
    starter
}

/// Its copy of what was let go passes. In a process of its own: such a child has everything that its parent has.
#[test]
fn a_child_that_is_long_in_coming_to_its_exec_is_waited_for() {
    let folder = Folder::new();
    Launch::new("reserves-beside-stuck-child", &folder.locks())
        .start()
        .succeed();
}

pub(crate) fn reserve_beside_stuck_child() {
    // A claim with its listener, and a number that is kept by its name alone.
    for options in [ReserveOptions::new(), ReserveOptions::new().udp()] {
        let options = options.port(quiet_number());
        let p = options.clone().reserve().unwrap();
        let port = p.port();
        let server: OwnedFd = match p.protocols()[0] {
            Protocol::Tcp => p.listen().unwrap().into(),
            _ => p.udp_socket().unwrap().into(),
        };
        let starter = stuck_child(&format!("{p}/{}", p.protocols()[0]));
        let begun = Instant::now();
        drop(server);
        if p.protocols()[0] == Protocol::Tcp {
            portlease::assert_port_free(&p);
        }
        drop(p);
        assert_eq!(options.reserve().unwrap().port(), port);
        assert!(
            begun.elapsed() > STUCK / 2,
            "the control: the child was gone already"
        );
        starter.join().unwrap();
    }
}

/// Without a reservation there was no name, and the socket is all that the child shares.
#[test]
fn a_server_that_this_process_has_closed_is_waited_for_while_a_child_is_long_in_coming_to_its_exec()
{
    // The look at every process that a refusal takes is longer than that child's wait under an emulator.
    need!(capability::native());
    let folder = Folder::new();
    Launch::new("closes-beside-stuck-child", &folder.locks())
        .start()
        .succeed();
}

pub(crate) fn close_beside_stuck_child() {
    let all = ReserveOptions::new;
    for (options, protocol) in [
        (all(), Protocol::Tcp),
        (all().reuse_addr(false), Protocol::Tcp),
        (all().udp(), Protocol::Udp),
    ] {
        let port = quiet_number();
        let server: OwnedFd = match protocol {
            Protocol::Tcp => eventually("a bare bind", DEADLINE, || {
                // Others look at the number for a moment.
                TcpListener::bind(("127.0.0.1", port)).map_err(|e| e.to_string())
            })
            .into(),
            _ => UdpSocket::bind(("127.0.0.1", port)).unwrap().into(),
        };
        let starter = stuck_child(&format!("{port}/{protocol}"));
        let refused = options.clone().port(port).reserve().unwrap_err();
        assert_eq!(
            refused.kind(),
            ErrorKind::InUse,
            "the control: this process has it too"
        );
        let begun = Instant::now();
        drop(server);
        assert_eq!(options.port(port).reserve().unwrap().port(), port);
        assert!(
            begun.elapsed() > STUCK / 2,
            "the control: the child was gone already"
        );
        starter.join().unwrap();
    }
}

/// A preferred number is worth less patience, and some.
#[test]
fn a_preferred_number_that_was_let_go_is_had_again_beside_threads_that_spawn() {
    let folder = Folder::new();
    let number = quiet_number();
    let said = Launch::new("spawner", &folder.locks())
        .args(format!("prefer={number}"))
        .start()
        .succeed();
    support::tell(&format!("{}: {}", support::test_name!(), said.join(" ")));
}
