//! The compared ways to pick a port.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use get_port::Ops as _;
use openport::PortReservation;

use crate::load;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Portlease,
    BindAndDrop,
    Portpicker,
    PortCheck,
    GetPort,
    Openport,
    ReservePort,
    TimeWait,
    Portserver,
}

pub(crate) const ALL: [Peer; 9] = [
    Peer::Portlease,
    Peer::BindAndDrop,
    Peer::Portpicker,
    Peer::PortCheck,
    Peer::GetPort,
    Peer::Openport,
    Peer::ReservePort,
    Peer::TimeWait,
    Peer::Portserver,
];

/// The abstract address of the port server. Each network namespace has its own abstract addresses.
pub(crate) const PORTSERVER: &str = "portlease-peers";

/// A port and the value that keeps it. Some peers have no such value.
pub(crate) struct PickedPort {
    pub(crate) port: u16,
    _keeper: Keeper,
}

enum Keeper {
    None,
    Portlease {
        _reservation: portlease::Reservation,
    },
    Openport(u16),
    ReservePort {
        _reserved: reserve_port::ReservedPort,
    },
    Process(Child),
}

impl Drop for Keeper {
    fn drop(&mut self) {
        match self {
            Keeper::Openport(port) => OPENPORT.release_port(*port),
            Keeper::Process(child) => {
                // The child may have exited already.
                let _exited = child.kill();
                let _reaped = child.wait();
            }
            Keeper::None | Keeper::Portlease { .. } | Keeper::ReservePort { .. } => {}
        }
    }
}

/// One value for the whole process, as openport's documentation shows.
static OPENPORT: LazyLock<PortReservation> = LazyLock::new(PortReservation::default);

/// The process that owns the port. Only the port server needs it: it identifies owners by pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A new process. It stands for a test process, which releases its port by exiting.
    NewProcess,
    /// This process, which keeps all its ports until it exits.
    ThisProcess,
}

impl Peer {
    pub(crate) fn of(name: &str) -> Option<Peer> {
        ALL.into_iter().find(|peer| peer.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Portlease => "portlease",
            Peer::BindAndDrop => "bind(0) and drop",
            Peer::Portpicker => "portpicker",
            Peer::PortCheck => "port_check",
            Peer::GetPort => "get-port",
            Peer::Openport => "openport, reservation",
            Peer::ReservePort => "reserve-port",
            Peer::TimeWait => "TIME_WAIT trick",
            Peer::Portserver => "python portpicker, portserver",
        }
    }

    /// False for the TIME_WAIT trick: each of its ports is used up for a minute.
    pub(crate) fn has_reusable_ports(self) -> bool {
        self != Peer::TimeWait
    }

    pub(crate) fn pick(self, owner: Owner) -> Result<PickedPort, String> {
        let any = (Ipv4Addr::LOCALHOST, 0);
        let none = || "no port found".to_owned();
        let (port, keeper) = match self {
            Peer::Portlease => {
                let reservation = portlease::try_reserve_port().map_err(|e| e.to_string())?;
                (
                    reservation.port(),
                    Keeper::Portlease {
                        _reservation: reservation,
                    },
                )
            }
            Peer::BindAndDrop => {
                let listener = TcpListener::bind(any).map_err(|e| e.to_string())?;
                (port_of(&listener)?, Keeper::None)
            }
            Peer::Portpicker => (
                portpicker::pick_unused_port().ok_or_else(none)?,
                Keeper::None,
            ),
            Peer::PortCheck => (
                port_check::free_local_ipv4_port().ok_or_else(none)?,
                Keeper::None,
            ),
            Peer::GetPort => (
                get_port::tcp::TcpPort::any("127.0.0.1").ok_or_else(none)?,
                Keeper::None,
            ),
            Peer::Openport => {
                let port = OPENPORT.reserve_port().ok_or_else(none)?;
                (port, Keeper::Openport(port))
            }
            Peer::ReservePort => {
                let reserved = reserve_port::ReservedPort::random().map_err(|e| e.to_string())?;
                (
                    reserved.port(),
                    Keeper::ReservePort {
                        _reserved: reserved,
                    },
                )
            }
            Peer::TimeWait => (
                pick_by_time_wait().map_err(|e| e.to_string())?,
                Keeper::None,
            ),
            Peer::Portserver => {
                let keeper = match owner {
                    Owner::ThisProcess => Keeper::None,
                    Owner::NewProcess => {
                        let _forking = load::SERVING.write().map_err(|e| e.to_string())?;
                        let mut sleeper = Command::new("sleep");
                        sleeper
                            .arg("600")
                            .stdin(Stdio::null())
                            .stdout(Stdio::null());
                        Keeper::Process(sleeper.spawn().map_err(|e| e.to_string())?)
                    }
                };
                let pid = match &keeper {
                    Keeper::Process(child) => child.id(),
                    _ => std::process::id(),
                };
                (ask_portserver(pid).map_err(|e| e.to_string())?, keeper)
            }
        };
        Ok(PickedPort {
            port,
            _keeper: keeper,
        })
    }
}

fn port_of(listener: &TcpListener) -> Result<u16, String> {
    listener
        .local_addr()
        .map(|addr| addr.port())
        .map_err(|e| e.to_string())
}

/// Picks as ephemeral-port-reserve does: it connects to its own listener and closes the server's
/// end first. That end stays in TIME_WAIT for a minute. A server with SO_REUSEADDR can bind over
/// it, and the kernel assigns the number to no process.
fn pick_by_time_wait() -> std::io::Result<u16> {
    let listener = load::bound(0, true)?;
    listener.listen(1)?;
    let listener = TcpListener::from(listener);
    let addr = listener.local_addr()?;
    let mut client = TcpStream::connect(addr)?;
    let (server, _) = listener.accept()?;
    drop(server);
    let _nothing = client.read(&mut [0])?;
    Ok(addr.port())
}

fn ask_portserver(pid: u32) -> std::io::Result<u16> {
    let mut stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(PORTSERVER)?)?;
    stream.write_all(format!("{pid}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer
        .trim()
        .parse()
        .map_err(|_| std::io::Error::other(format!("the port server answered {answer:?}")))
}
