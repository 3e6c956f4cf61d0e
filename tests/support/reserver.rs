//! A helper process that reserves ports on command, and the handle by which a test commands it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portlease::{Reservation, ReserveOptions, ServerKind};

use super::args::Args;
use super::helper::{self, Helper, Launch};
use super::{Folder, show_owner};

/// The helper process. It replies with one line to each line that it is sent, and with two to
/// `reserve`.
pub(crate) fn run() {
    let mut held: BTreeMap<u16, Reservation> = BTreeMap::new();
    let mut servers: BTreeMap<u16, TcpListener> = BTreeMap::new();
    let mut sockets: Vec<UdpSocket> = Vec::new();
    while let Some(line) = helper::next_line() {
        let args = Args::parse(&line);
        let reply = match args.command() {
            ("reserve", _) => {
                let begun = now();
                helper::reply(&format!("begun {begun}"));
                match reserve(&args) {
                    Ok(reservations) => {
                        let described = describe(&reservations);
                        held.extend(reservations.into_iter().map(|r| (r.port(), r)));
                        format!("held at={} {described}", now())
                    }
                    Err(e) => format!("refused {:?} {e}", e.kind()),
                }
            }
            // `after`, in microseconds, stands for the work of a test.
            ("release", which) => {
                std::thread::sleep(Duration::from_micros(args.number("after").unwrap_or(0)));
                let at = now();
                match which {
                    "all" => held.clear(),
                    port => drop(held.remove(&port.parse().unwrap()).unwrap()),
                }
                format!("released at={at}")
            }
            // The current guarantee of a reservation that this process holds.
            ("guarantee", port) => format!("{:?}", held[&port.parse().unwrap()].guarantee()),
            // Why no lock file records a reservation that this process holds.
            ("lease-error", port) => {
                let error = held[&port.parse().unwrap()].lease_error();
                error.unwrap_or("none").to_owned()
            }
            ("leak", port) => {
                let reservation = held.remove(&port.parse().unwrap()).unwrap();
                format!("leaked {}", reservation.leak())
            }
            ("serve", port) => {
                let port = port.parse().unwrap();
                match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                    Ok(server) => {
                        show_owner(&server);
                        servers.insert(port, server);
                        "serves".to_owned()
                    }
                    Err(e) => format!("refused {e}"),
                }
            }
            ("serve-udp", port) => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port.parse().unwrap())).unwrap();
                show_owner(&socket);
                sockets.push(socket);
                "serves".to_owned()
            }
            ("stop", _) => {
                servers.clear();
                sockets.clear();
                "stopped".to_owned()
            }
            // The port's entry in the list of live leases.
            ("lease", port) => {
                let port: u16 = port.parse().unwrap();
                match portlease::reservations() {
                    Ok(live) => match live.iter().find(|lease| lease.port() == port) {
                        Some(lease) => lease.to_string(),
                        None => "none".to_owned(),
                    },
                    Err(e) => format!("refused {e}"),
                }
            }
            // The pids of the forked children that have kept the port.
            ("heirs", port) => {
                let port: u16 = port.parse().unwrap();
                let live = portlease::reservations().unwrap();
                let lease = live.iter().find(|lease| lease.port() == port).unwrap();
                let heirs = lease.inherited_by().iter();
                heirs
                    .map(|heir| heir.pid.to_string())
                    .collect::<Vec<_>>()
                    .join(",")
            }
            ("free", port) => portlease::is_port_free(port).to_string(),
            // The same check, from a child process.
            ("child-free", port) => {
                let locks = std::env::var_os("PORTLEASE_DIR").unwrap();
                Reserver::new(Path::new(&locks)).command(&format!("free={port}"))
            }
            // A child process tries to reserve the port with another lock folder.
            ("elsewhere", port) => {
                let folder = Folder::new();
                match Reserver::new(&folder.locks()).reserve(&format!("port={port}")) {
                    Outcome::Held(_) => "held".to_owned(),
                    Outcome::Refused { kind, .. } => kind,
                }
            }
            ("check", port) => match portlease::check_port_free(port) {
                Ok(()) => "free".to_owned(),
                Err(diagnosis) => diagnosis.to_string(),
            },
            ("who", port) => match portlease::who_holds(port) {
                Ok(holders) => format!("complete={} {holders}", holders.is_complete()),
                Err(e) => format!("refused {:?} {e}", e.kind()),
            },
            ("fill", _) => loop {
                match ReserveOptions::new().reserve() {
                    Ok(reservation) => drop(held.insert(reservation.port(), reservation)),
                    Err(e) => break format!("filled {} {:?} {e}", held.len(), e.kind()),
                }
            },
            // The process goes on without the thread, as a test binary does after a failed test.
            ("panic", _) => {
                let reservation = portlease::reserve_port();
                let port = reservation.port();
                let panicked = std::thread::spawn(move || {
                    let _held = reservation;
                    panic!("on command");
                });
                assert!(panicked.join().is_err());
                format!("panicked {port}")
            }
            ("die", _) => {
                let _held = portlease::reserve_port();
                let _dropped = portlease::reserve_port();
                panic!("on command");
            }
            ("reserve_port", _) => format!("held {}", portlease::reserve_port()),
            (other, _) => panic!("no such command: {other}"),
        };
        helper::reply(&reply);
    }
}

fn reserve(args: &Args) -> portlease::Result<Vec<Reservation>> {
    let mut options = ReserveOptions::new();
    if let Some(port) = args.number("port") {
        options = options.port(port);
    }
    if let [low, high] = args.ports("range")[..] {
        options = options.range(low..=high);
    }
    // Unlike `range`, this leaves the choice to an automatic pick without a range.
    if let [low, high] = args.ports("within")[..] {
        options = options.exclude(1..low).exclude(high + 1..=u16::MAX);
    }
    for (name, kind) in [
        ("udp", ReserveOptions::udp as fn(_) -> _),
        ("pair", ReserveOptions::tcp_and_udp),
        ("plain", |options: ReserveOptions| options.reuse_addr(false)),
        ("reuse-port", |options: ReserveOptions| {
            options.server(ServerKind::ReusePort)
        }),
    ] {
        if args.get(name).is_some() {
            options = kind(options);
        }
    }
    options = options
        .prefer(args.ports("prefer"))
        .exclude(args.ports("exclude"));
    if let Some(wait) = args.number("wait") {
        options = options.wait(Duration::from_millis(wait));
    }
    if let Some(pid) = args.number("for") {
        options = options.on_behalf_of(pid);
    }
    if let Some(label) = args.get("label") {
        options = options.label(label);
    }
    if let Some(name) = args.get("named") {
        options = options.named(name);
    }
    match (args.number("many"), args.number("block")) {
        (Some(n), _) => options.reserve_many(n),
        (_, Some(n)) => options.reserve_block(n),
        _ => options.reserve().map(|one| vec![one]),
    }
}

fn describe(reservations: &[Reservation]) -> String {
    let ports: Vec<String> = reservations.iter().map(Reservation::to_string).collect();
    let guarantee = reservations.iter().map(Reservation::guarantee).min();
    let leased = reservations
        .iter()
        .all(|r| format!("{r:?}").contains("leased: true"));
    format!(
        "ports={} guarantee={guarantee:?} leased={leased}{}",
        ports.join(","),
        reservations
            .first()
            .and_then(Reservation::first_choice)
            .map_or(String::new(), |first| format!(" first={first}")),
    )
}

/// The time in nanoseconds on the machine's clock, which all processes share.
fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos()
}

/// The handle of a process that runs [`run`].
pub(crate) struct Reserver(Helper);

/// The outcome of `reserve`.
#[derive(Debug)]
pub(crate) enum Outcome {
    Held(Held),
    Refused { kind: String, message: String },
}

#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) ports: Vec<u16>,
    pub(crate) guarantee: String,
    pub(crate) leased: bool,
    /// The number that the name of the first reservation stands for.
    pub(crate) first_choice: Option<u16>,
    /// When the reservation was made, in nanoseconds.
    pub(crate) at: u128,
}

impl Held {
    pub(crate) fn port(&self) -> u16 {
        self.ports[0]
    }
}

impl Outcome {
    #[track_caller]
    pub(crate) fn held(self) -> Held {
        match self {
            Outcome::Held(held) => held,
            Outcome::Refused { kind, message } => panic!("refused: {kind}: {message}"),
        }
    }

    /// The message of an error of this kind.
    #[track_caller]
    pub(crate) fn refused(self, expected: &str) -> String {
        match self {
            Outcome::Refused { kind, message } => {
                assert_eq!(kind, expected, "{message}");
                message
            }
            Outcome::Held(held) => panic!("not refused: {held:?}"),
        }
    }
}

impl Reserver {
    pub(crate) fn new(locks: &Path) -> Reserver {
        Reserver::start(Reserver::launch(locks))
    }

    pub(crate) fn launch(locks: &Path) -> Launch {
        Launch::new("reserver", locks)
    }

    pub(crate) fn start(launch: Launch) -> Reserver {
        Reserver(launch.start())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    #[track_caller]
    pub(crate) fn reserve(&mut self, args: &str) -> Outcome {
        self.begin_reserve(args);
        self.end_reserve()
    }

    /// Makes the process begin to reserve. Returns the time at which it began.
    #[track_caller]
    pub(crate) fn begin_reserve(&mut self, args: &str) -> u128 {
        self.0.send(&format!("reserve {args}"));
        let begun = self.0.receive();
        begun.strip_prefix("begun ").unwrap().parse().unwrap()
    }

    /// Waits for the outcome of [`Reserver::begin_reserve`].
    #[track_caller]
    pub(crate) fn end_reserve(&mut self) -> Outcome {
        let line = self.0.receive();
        if let Some(refusal) = line.strip_prefix("refused ") {
            let (kind, message) = refusal.split_once(' ').unwrap();
            return Outcome::Refused {
                kind: kind.to_owned(),
                message: message.to_owned(),
            };
        }
        let args = Args::parse(
            line.strip_prefix("held ")
                .unwrap_or_else(|| panic!("{line}")),
        );
        let guarantee = args.get("guarantee").unwrap();
        Outcome::Held(Held {
            ports: args.ports("ports"),
            guarantee: guarantee
                .trim_start_matches("Some(")
                .trim_end_matches(')')
                .to_owned(),
            leased: args.get("leased") == Some("true"),
            first_choice: args.number("first"),
            at: args.number("at").unwrap(),
        })
    }

    /// Sends any command, and returns the reply.
    #[track_caller]
    pub(crate) fn command(&mut self, line: &str) -> String {
        self.0.send(line);
        self.0.receive()
    }

    /// Makes the process release a port, or `all` of its ports.
    #[track_caller]
    pub(crate) fn release(&mut self, which: impl std::fmt::Display) {
        let reply = self.command(&format!("release={which}"));
        assert!(reply.starts_with("released"), "{reply}");
    }

    pub(crate) fn process(&mut self) -> &mut Helper {
        &mut self.0
    }
}
