//! Exact numbers over the connections that an earlier server left, in each of their states.
//!
//! The measure is the kernel: a number is granted if and only if a server of the requested kind can
//! bind it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portlease::{ReserveOptions, ServerKind, State};
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::helper::{self, Launch};
use crate::support::reserver::{Outcome, Reserver};
use crate::support::socket::{ANY_V4, ANY_V6, V4, V6};
use crate::support::{DEADLINE, Folder, capability, eventually, need};

/// The reuse options of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Options {
    addr: bool,
    port: bool,
}

const PAST_SERVERS: [Options; 4] = [
    Options {
        addr: true,
        port: false,
    },
    Options {
        addr: false,
        port: true,
    },
    Options {
        addr: true,
        port: true,
    },
    Options {
        addr: false,
        port: false,
    },
];

const ADDRESSES: [IpAddr; 4] = [V4, V6, ANY_V4, ANY_V6];

const KINDS: [ServerKind; 3] = [
    ServerKind::ReuseAddr,
    ServerKind::ReusePort,
    ServerKind::Plain,
];

impl Options {
    fn of(kind: ServerKind) -> Options {
        Options {
            addr: kind == ServerKind::ReuseAddr,
            port: kind == ServerKind::ReusePort,
        }
    }
}

fn serve(ip: IpAddr, port: u16, options: Options) -> std::io::Result<Socket> {
    let domain = if ip.is_ipv6() {
        Domain::IPV6
    } else {
        Domain::IPV4
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    if ip.is_ipv6() {
        socket.set_only_v6(ip != ANY_V6)?;
    }
    socket.set_reuse_address(options.addr)?;
    socket.set_reuse_port(options.port)?;
    socket.bind(&SocketAddr::new(ip, port).into())?;
    socket.listen(8)?;
    Ok(socket)
}

/// The state of a connection that a server left, and whether a process still has the accepted
/// socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leftover {
    state: State,
    is_orphan: bool,
}

const LEFTOVERS: [Leftover; 10] = {
    const fn of(state: State, is_orphan: bool) -> Leftover {
        Leftover { state, is_orphan }
    }
    [
        of(State::Established, false),
        of(State::FinWait1, true),
        of(State::FinWait1, false),
        of(State::FinWait2, true),
        of(State::FinWait2, false),
        of(State::CloseWait, false),
        of(State::Closing, true),
        of(State::LastAck, true),
        of(State::LastAck, false),
        of(State::TimeWait, true),
    ]
};

/// Sockets that keep a connection in its state.
type Kept = Vec<TcpStream>;

/// Serves one client of a keep-alive pool, stops, and leaves the server's side in this state.
fn leave(leftover: Leftover, ip: IpAddr, port: u16, options: Options) -> Kept {
    let listener = serve(ip, port, options).unwrap();
    let target = match ip {
        ANY_V4 | ANY_V6 => V4,
        one => one,
    };
    let domain = if target.is_ipv6() {
        Domain::IPV6
    } else {
        Domain::IPV4
    };
    let client = Socket::new(domain, Type::STREAM, None).unwrap();
    client.set_recv_buffer_size(4096).unwrap();
    client
        .connect(&SocketAddr::new(target, port).into())
        .unwrap();
    let client = TcpStream::from(client);
    let (server, _) = listener.accept().unwrap();
    let mut server = TcpStream::from(server);
    drop(listener);

    let client_sends_fin = || client.shutdown(std::net::Shutdown::Write).unwrap();
    // The server's FIN waits behind data that the client does not read.
    let fill = |server: &mut TcpStream| {
        SockRef::from(&*server).set_send_buffer_size(4096).unwrap();
        server.set_nonblocking(true).unwrap();
        loop {
            match server.write(&[0; 4096]) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
    };
    let mut kept = Vec::new();
    let mut close = |server: TcpStream| {
        if leftover.is_orphan {
            drop(server);
        } else {
            server.shutdown(std::net::Shutdown::Write).unwrap();
            kept.push(server);
        }
    };
    match leftover.state {
        State::Established => kept.push(server),
        State::FinWait2 => close(server),
        State::FinWait1 => {
            fill(&mut server);
            close(server);
        }
        State::Closing => {
            fill(&mut server);
            close(server);
            client_sends_fin();
        }
        State::CloseWait => {
            client_sends_fin();
            kept.push(server);
        }
        State::LastAck => {
            client_sends_fin();
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
            fill(&mut server);
            close(server);
        }
        State::TimeWait => {
            close(server);
            assert_eq!((&client).read(&mut [0]).unwrap(), 0);
        }
        other => panic!("{other:?}"),
    }
    if leftover.state == State::TimeWait {
        drop(client);
    } else {
        kept.push(client);
    }
    eventually("the state", DEADLINE, || {
        let holders = portlease::who_holds(port).unwrap();
        let states: Vec<State> = holders.iter().map(|holder| holder.state).collect();
        if states == [leftover.state] {
            Ok(())
        } else {
            Err(format!("{leftover:?}: {states:?}"))
        }
    });
    kept
}

/// The first of the numbers that the tests use. In their network namespace no other process takes
/// such a number, and the kernel does not assign one.
const FIRST_NUMBER: u16 = 20000;

#[test]
fn an_exact_number_is_granted_exactly_when_a_server_of_the_kind_could_bind() {
    need!(
        capability::network_namespace(),
        capability::bound_sockets(),
        capability::ipv6()
    );
    let folder = Folder::new();
    Launch::new("past-servers", &folder.locks())
        .in_network("ip link set lo up")
        .start()
        .succeed();
}

/// The helper process. It forks nothing after its first socket, so that no child shares one.
pub(crate) fn reserve_after_past_servers() {
    let folder = Folder::new();
    let mut other = Reserver::new(&folder.locks());
    let mut elsewhere = Reserver::new(&Folder::new().locks());
    let mut numbers = FIRST_NUMBER..;
    let (mut granted, mut refused, mut wrong) = (0, 0, Vec::new());
    for leftover in LEFTOVERS {
        // Keeps the parent from timing out on a slow machine.
        helper::reply("working");
        for options in PAST_SERVERS {
            for kind in KINDS {
                let port = numbers.next().unwrap();
                // The kinds use consecutive numbers. So each state of each past server is on three
                // of the four addresses.
                let ip = ADDRESSES[usize::from(port) % ADDRESSES.len()];
                let kept = leave(leftover, ip, port, options);
                // The control.
                let can_bind = serve(ANY_V6, port, Options::of(kind)).is_ok();
                let checked = portlease::check_port_free_for(port, kind);
                let reserved = ReserveOptions::new().port(port).server(kind).reserve();
                let case = format!("{leftover:?} of {options:?} on {ip}, asked for {kind:?}");
                if checked.is_ok() != can_bind {
                    wrong.push(format!("{case}: can bind: {can_bind}; check: {checked:?}"));
                }
                match reserved {
                    Ok(reservation) if can_bind => {
                        granted += 1;
                        for another in [&mut other, &mut elsewhere] {
                            let again = another.reserve(&format!("port={port}"));
                            if let Outcome::Held(held) = again {
                                wrong.push(format!("{case}: reserved twice: {held:?}"));
                                another.release("all");
                            }
                        }
                        if let Err(e) = serve(ANY_V6, port, Options::of(kind)) {
                            wrong.push(format!("{case}: a server over the reservation: {e}"));
                        }
                        drop(reservation);
                    }
                    Ok(_) => wrong.push(format!("{case}: reserved, and no server can bind")),
                    Err(error) if can_bind => wrong.push(format!("{case}: {error}")),
                    Err(error) => {
                        refused += 1;
                        let text = format!("{error:?}");
                        let named = text.contains("TIME_WAIT of 1 connection")
                            || text.contains(&format!(":{port} -> "))
                            || text.contains(&format!(":{port} <- "));
                        if !named || text.contains("as root") {
                            wrong.push(format!("{case}: the error names no socket: {text}"));
                        }
                    }
                }
                drop(kept);
            }
        }
    }
    // Each other way to request the number.
    for leftover in LEFTOVERS {
        for how in [
            "port=P wait=5000",
            "port=P block=1",
            "prefer=P",
            "prefer=P block=1",
            "range=P-P",
            "range=P-P block=1",
        ] {
            let port = numbers.next().unwrap();
            let _kept = leave(leftover, V4, port, PAST_SERVERS[0]);
            match other.reserve(&how.replace('P', &port.to_string())) {
                Outcome::Held(held) if held.port() == port => other.release("all"),
                outcome => wrong.push(format!("{leftover:?}, {how}: {outcome:?}")),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        numbers.start - FIRST_NUMBER,
        wrong.join("\n")
    );
    assert!(granted >= 30 && refused >= 30, "{granted} {refused}");
}

#[test]
fn of_two_processes_that_reserve_over_a_past_server_at_once_one_succeeds() {
    need!(capability::network_namespace(), capability::bound_sockets());
    let folder = Folder::new();
    Launch::new("past-servers-race", &folder.locks())
        .in_network("ip link set lo up")
        .start()
        .succeed();
}

/// The helper process. Two processes race: first they share a lock folder, then each has its own.
pub(crate) fn race_after_past_servers() {
    const ROUNDS: u16 = 20;
    let (one, two) = (Folder::new(), Folder::new());
    let reuse_addr = PAST_SERVERS[0];
    let (mut numbers, mut held) = (FIRST_NUMBER.., [0; 2]);
    let mut racers = [&one, &one, &two].map(|folder| Reserver::new(&folder.locks()));
    for pair in [[0, 1], [0, 2]] {
        for leftover in LEFTOVERS {
            // Keeps the parent from timing out on a slow machine.
            helper::reply("working");
            for _ in 0..ROUNDS / 4 {
                let port = numbers.next().unwrap();
                let _kept = leave(leftover, V4, port, reuse_addr);
                // The control: without a reservation, two servers can bind.
                let servers = [(); 2].map(|()| bound(port));
                assert!(
                    servers.iter().all(Result::is_ok),
                    "{leftover:?}: {servers:?}"
                );
                drop(servers);
                for racer in pair {
                    racers[racer].begin_reserve(&format!("port={port}"));
                }
                let outcomes = pair.map(|racer| racers[racer].end_reserve());
                let winners: Vec<bool> = outcomes
                    .iter()
                    .map(|outcome| matches!(outcome, Outcome::Held(_)))
                    .collect();
                assert!(
                    winners.iter().filter(|won| **won).count() == 1,
                    "{leftover:?}: {outcomes:?}"
                );
                for (i, racer) in pair.into_iter().enumerate() {
                    if winners[i] {
                        held[i] += 1;
                        racers[racer].release("all");
                    }
                }
            }
        }
    }
    assert!(held.iter().sum::<u16>() >= 100, "{held:?}");

    // A wait succeeds once only such connections are left on its number. The server stops early in
    // a long wait, and shortly before the end of a short one.
    for (how, wait) in [
        ("port", 20_000),
        ("range", 20_000),
        ("port", 300),
        ("range", 300),
    ] {
        let port = numbers.next().unwrap();
        let _kept = leave(LEFTOVERS[0], V4, port, reuse_addr);
        let server = serve(V4, port, reuse_addr).unwrap();
        let asked = match how {
            "range" => format!("range={port}-{port} wait={wait}"),
            how => format!("{how}={port} wait={wait}"),
        };
        racers[0].begin_reserve(&asked);
        std::thread::sleep(Duration::from_millis(200));
        drop(server);
        let stopped = Instant::now();
        racers[0].end_reserve().held();
        assert!(stopped.elapsed() < Duration::from_secs(5), "{asked}");
        racers[0].release("all");
    }

    // Reservations succeed while another process probes the number, for some microseconds each
    // time.
    let port = numbers.next().unwrap();
    let _kept = leave(LEFTOVERS[0], V4, port, reuse_addr);
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stopped.load(Ordering::Relaxed) {
                drop(bound(port));
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        let outcomes = (0..500).map(|_| {
            let outcome = racers[0].reserve(&format!("port={port}"));
            if matches!(outcome, Outcome::Held(_)) {
                racers[0].release("all");
            }
            outcome
        });
        let refused = outcomes.filter(|outcome| matches!(outcome, Outcome::Refused { .. }));
        let refused: Vec<_> = refused.collect();
        stopped.store(true, Ordering::Relaxed);
        // On a busy machine the prober can be preempted while it has the number.
        assert!(refused.len() <= 5, "{refused:?}");
    });
}

/// A socket that is bound with SO_REUSEADDR, like that of a server, and does not listen.
fn bound(port: u16) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(ANY_V4, port).into())?;
    Ok(socket)
}
