//! A process that reserves ports as it is told, and the handle by which a test tells it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portlease::{Reservation, ReserveOptions};

use crate::support::{self, Child, Launch, Words};

/// The role. One line per command, one line of answer.
pub(crate) fn play() {
    let mut held: BTreeMap<u16, Reservation> = BTreeMap::new();
    let mut servers: BTreeMap<u16, TcpListener> = BTreeMap::new();
    let mut sockets: Vec<UdpSocket> = Vec::new();
    while let Some(line) = support::listen() {
        let words = Words::parse(&line);
        let answer = match words.first() {
            ("reserve", _) => {
                let asked = now();
                support::say(&format!("asked {asked}"));
                match reserve(&words) {
                    Ok(reservations) => {
                        let told = tell(&reservations);
                        held.extend(reservations.into_iter().map(|r| (r.port(), r)));
                        format!("held at={} {told}", now())
                    }
                    Err(e) => format!("refused {:?} {e}", e.kind()),
                }
            }
            // Holds it for a while first, like a test that is at work.
            ("drop", which) => {
                std::thread::sleep(Duration::from_micros(words.number("after").unwrap_or(0)));
                let at = now();
                match which {
                    "all" => held.clear(),
                    port => drop(held.remove(&port.parse().unwrap()).unwrap()),
                }
                format!("dropped at={at}")
            }
            ("leak", port) => {
                let reservation = held.remove(&port.parse().unwrap()).unwrap();
                format!("leaked {}", reservation.leak())
            }
            ("serve", port) => {
                let port = port.parse().unwrap();
                match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                    Ok(server) => {
                        support::show_owner(&server);
                        servers.insert(port, server);
                        "serves".to_owned()
                    }
                    Err(e) => format!("refused {e}"),
                }
            }
            ("serve-udp", port) => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port.parse().unwrap())).unwrap();
                support::show_owner(&socket);
                sockets.push(socket);
                "serves".to_owned()
            }
            ("stop", _) => {
                servers.clear();
                sockets.clear();
                "stopped".to_owned()
            }
            // What the list of live leases says of a port.
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
            ("free", port) => portlease::is_port_free(port).to_string(),
            // The same, asked by a child.
            ("child-free", port) => {
                let locks = std::env::var_os("PORTLEASE_DIR").unwrap();
                Agent::new(Path::new(&locks)).command(&format!("free={port}"))
            }
            ("check", port) => match portlease::check_port_free(port) {
                Ok(()) => "free".to_owned(),
                Err(diagnosis) => diagnosis.to_string(),
            },
            ("who", port) => match portlease::who_holds(port) {
                Ok(holders) => format!("complete={} {holders}", holders.is_complete()),
                Err(e) => format!("refused {:?} {e}", e.kind()),
            },
            // A panic of each kind, with where it says it happened.
            ("panics", _) => crate::diagnosis::panics().join("|"),
            ("leaks", _) => crate::diagnosis::leaks(),
            ("fill", _) => loop {
                match ReserveOptions::new().reserve() {
                    Ok(reservation) => drop(held.insert(reservation.port(), reservation)),
                    Err(e) => break format!("filled {} {:?} {e}", held.len(), e.kind()),
                }
            },
            #[cfg(target_os = "linux")]
            ("draw", _) => {
                crate::linux::guarantee::draw_everything(words.number("server").unwrap())
            }
            // The process goes on without this thread, as a test binary does after a test that failed.
            ("panic", _) => {
                let reservation = portlease::reserve_port();
                let port = reservation.port();
                let panicked = std::thread::spawn(move || {
                    let _held = reservation;
                    panic!("as it was told");
                });
                assert!(panicked.join().is_err());
                format!("panicked {port}")
            }
            ("die", _) => {
                let _held = portlease::reserve_port();
                let _dropped = portlease::reserve_port();
                panic!("as it was told");
            }
            ("reserve_port", _) => format!("held {}", portlease::reserve_port()),
            (other, _) => panic!("no such command: {other}"),
        };
        support::say(&answer);
    }
}

fn reserve(words: &Words) -> portlease::Result<Vec<Reservation>> {
    let mut options = ReserveOptions::new();
    if let Some(port) = words.number("port") {
        options = options.port(port);
    }
    if let [low, high] = words.numbers("range")[..] {
        options = options.range(low..=high);
    }
    for (name, kind) in [
        ("udp", ReserveOptions::udp as fn(_) -> _),
        ("pair", ReserveOptions::tcp_and_udp),
        ("plain", |options: ReserveOptions| options.reuse_addr(false)),
    ] {
        if words.get(name).is_some() {
            options = kind(options);
        }
    }
    options = options
        .prefer(words.numbers("prefer"))
        .exclude(words.numbers("exclude"));
    if let Some(wait) = words.number("wait") {
        options = options.wait(Duration::from_millis(wait));
    }
    if let Some(pid) = words.number("for") {
        options = options.on_behalf_of(pid);
    }
    if let Some(label) = words.get("label") {
        options = options.label(label);
    }
    match (words.number("many"), words.number("block")) {
        (Some(n), _) => options.reserve_many(n),
        (_, Some(n)) => options.reserve_block(n),
        _ => options.reserve().map(|one| vec![one]),
    }
}

fn tell(reservations: &[Reservation]) -> String {
    let ports: Vec<String> = reservations.iter().map(Reservation::to_string).collect();
    let guarantee = reservations.iter().map(Reservation::guarantee).min();
    let leased = reservations
        .iter()
        .all(|r| format!("{r:?}").contains("leased: true"));
    format!(
        "ports={} guarantee={guarantee:?} leased={leased}",
        ports.join(",")
    )
}

/// Of the machine's clock, which all processes share.
fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos()
}

/// A process that plays [`play`].
pub(crate) struct Agent(Child);

/// The lock folder of this process: where processes meet that were told nothing.
pub(crate) fn own_locks() -> PathBuf {
    let usual = || {
        if cfg!(unix) {
            "/tmp/portlease".into()
        } else {
            std::env::temp_dir().join("portlease")
        }
    };
    std::env::var_os("PORTLEASE_DIR").map_or_else(usual, PathBuf::from)
}

/// What came of a reservation.
#[derive(Debug)]
pub(crate) enum Answer {
    Held(Held),
    Refused { kind: String, message: String },
}

#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) ports: Vec<u16>,
    pub(crate) guarantee: String,
    pub(crate) leased: bool,
    /// When it was had, in nanoseconds.
    pub(crate) at: u128,
}

impl Held {
    pub(crate) fn port(&self) -> u16 {
        self.ports[0]
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn held(self) -> Held {
        match self {
            Answer::Held(held) => held,
            Answer::Refused { kind, message } => panic!("refused: {kind}: {message}"),
        }
    }

    /// The message, of an error of this kind.
    #[track_caller]
    pub(crate) fn refused(self, expected: &str) -> String {
        match self {
            Answer::Refused { kind, message } => {
                assert_eq!(kind, expected, "{message}");
                message
            }
            Answer::Held(held) => panic!("not refused: {held:?}"),
        }
    }
}

impl Agent {
    pub(crate) fn new(locks: &Path) -> Agent {
        Agent::of(Agent::launch(locks))
    }

    pub(crate) fn launch(locks: &Path) -> Launch {
        Launch::new("agent", locks)
    }

    pub(crate) fn of(launch: Launch) -> Agent {
        Agent(launch.start())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    #[track_caller]
    pub(crate) fn reserve(&mut self, how: &str) -> Answer {
        self.ask(how);
        self.answer()
    }

    /// Begins to reserve, and returns when that was.
    #[track_caller]
    pub(crate) fn ask(&mut self, how: &str) -> u128 {
        self.0.tell(&format!("reserve {how}"));
        let asked = self.0.hear();
        asked.strip_prefix("asked ").unwrap().parse().unwrap()
    }

    /// What came of what was asked.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        let line = self.0.hear();
        if let Some(refusal) = line.strip_prefix("refused ") {
            let (kind, message) = refusal.split_once(' ').unwrap();
            return Answer::Refused {
                kind: kind.to_owned(),
                message: message.to_owned(),
            };
        }
        let words = Words::parse(
            line.strip_prefix("held ")
                .unwrap_or_else(|| panic!("{line}")),
        );
        let guarantee = words.get("guarantee").unwrap();
        Answer::Held(Held {
            ports: words.numbers("ports"),
            guarantee: guarantee
                .trim_start_matches("Some(")
                .trim_end_matches(')')
                .to_owned(),
            leased: words.get("leased") == Some("true"),
            at: words.number("at").unwrap(),
        })
    }

    /// Any command, and its answer.
    #[track_caller]
    pub(crate) fn command(&mut self, line: &str) -> String {
        self.0.tell(line);
        self.0.hear()
    }

    /// Lets a port go, or `all` of them.
    #[track_caller]
    pub(crate) fn drop(&mut self, which: impl std::fmt::Display) {
        let answer = self.command(&format!("drop={which}"));
        assert!(answer.starts_with("dropped"), "{answer}");
    }

    pub(crate) fn process(&mut self) -> &mut Child {
        &mut self.0
    }
}
