//! A process that reserves ports as it is told, and the handle by which a test tells it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;

use portlease::{Reservation, ReserveOptions};

use crate::support::{self, Child, Folder, Launch, Words};

/// The role. One line per command, one line of answer.
pub(crate) fn play() {
    let mut held: BTreeMap<u16, Reservation> = BTreeMap::new();
    let mut servers: Vec<TcpListener> = Vec::new();
    let mut sockets: Vec<UdpSocket> = Vec::new();
    while let Some(line) = support::listen() {
        let words = Words::parse(&line);
        let port = words.number("port");
        let answer = match words.first().0 {
            "reserve" => match reserve(&words) {
                Ok(reservations) => {
                    let ports: Vec<String> = reservations.iter().map(Reservation::to_string).collect();
                    held.extend(reservations.into_iter().map(|r| (r.port(), r)));
                    format!("ports={}", ports.join(","))
                }
                Err(e) => format!("refused {:?} {e}", e.kind()),
            },
            "drop" => {
                std::thread::sleep(Duration::from_millis(words.number("after").unwrap_or(0)));
                drop(held.remove(&port.unwrap()).unwrap());
                "dropped".to_owned()
            }
            "serve" => {
                let server = TcpListener::bind((Ipv4Addr::LOCALHOST, port.unwrap())).unwrap();
                support::show_owner(&server);
                servers.push(server);
                "serves".to_owned()
            }
            "serve-udp" => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port.unwrap())).unwrap();
                support::show_owner(&socket);
                sockets.push(socket);
                "serves".to_owned()
            }
            "stop" => {
                servers.clear();
                sockets.clear();
                "stopped".to_owned()
            }
            "list" => {
                let live = portlease::reservations().unwrap();
                let ports: Vec<String> = live.iter().map(|lease| lease.port().to_string()).collect();
                format!("live={}", ports.join(","))
            }
            "check" => match portlease::check_port_free(port.unwrap()) {
                Ok(()) => "free".to_owned(),
                Err(diagnosis) => diagnosis.to_string(),
            },
            other => panic!("no such command: {other}"),
        };
        support::say(&answer);
    }
}

fn reserve(words: &Words) -> portlease::Result<Vec<Reservation>> {
    let mut options = ReserveOptions::new();
    if let Some(port) = words.number("port") {
        options = options.port(port);
    }
    for (name, kind) in [("udp", ReserveOptions::udp as fn(_) -> _), ("pair", ReserveOptions::tcp_and_udp)] {
        if words.get(name).is_some() {
            options = kind(options);
        }
    }
    if let Some(label) = words.get("label") {
        options = options.label(label);
    }
    options.reserve_many(words.number("many").unwrap_or(1))
}

/// A process that plays [`play`].
pub(crate) struct Agent(Child);

impl Agent {
    /// With this process's lock folder.
    pub(crate) fn new() -> Agent {
        let locks = std::env::var_os("PORTLEASE_DIR").map_or_else(default_locks, Into::into);
        Agent(Launch::new("agent", &locks).start())
    }

    pub(crate) fn in_folder(folder: &Folder) -> Agent {
        Agent(Launch::new("agent", &folder.locks()).start())
    }

    pub(crate) fn of(launch: Launch) -> Agent {
        Agent(launch.start())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Any command, and its answer.
    #[track_caller]
    pub(crate) fn command(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        self.0.tell(line);
    }

    pub(crate) fn hear(&mut self) -> String {
        self.0.hear()
    }

    #[track_caller]
    pub(crate) fn reserve(&mut self, how: &str) -> Vec<u16> {
        let answer = self.command(&format!("reserve {how}"));
        assert!(answer.starts_with("ports="), "{answer}");
        Words::parse(&answer).numbers("ports")
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill();
    }

    pub(crate) fn end(self) {
        self.0.succeed();
    }
}

/// Where processes meet that were told nothing.
pub(crate) fn default_locks() -> std::path::PathBuf {
    if cfg!(unix) { "/tmp/portlease".into() } else { std::env::temp_dir().join("portlease") }
}
