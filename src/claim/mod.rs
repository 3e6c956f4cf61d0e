//! The claim: a TCP socket bound and never listening, which keeps a port from everyone the kernel chooses for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use once_cell::sync::OnceCell;
use socket2::{Domain, Socket, Type};

use crate::model::endpoint::Protocol;

#[cfg(windows)]
mod ffi;
mod fork_guard;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

/// While it lives, no `bind(…, 0)` and no outgoing connection is given the port, every second claim and every bind
/// without the reuse options is refused, and a server that sets SO_REUSEADDR binds and listens over it.
#[derive(Debug)]
pub(crate) struct Claim {
    socket: Socket,
    port: u16,
}

impl Claim {
    /// A number of the kernel's choice, from its ephemeral range.
    pub(crate) fn any() -> io::Result<Claim> {
        Self::test_and_set(0)
    }

    /// This number. The bind is the test: it fails if anybody at all has the port, TIME_WAIT included.
    pub(crate) fn exact(port: u16) -> io::Result<Claim> {
        Self::test_and_set(port)
    }

    /// Any number, where the kernel has none to choose from: what it does with one, it does with each.
    fn outside(exhausted: io::Error) -> io::Result<Claim> {
        const TRIES: usize = 64;
        const UNPRIVILEGED: u16 = 1024;
        for _ in 0..TRIES {
            match Self::exact(fastrand::u16(UNPRIVILEGED..)) {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
                outcome => return outcome,
            }
        }
        Err(exhausted)
    }

    /// This number, over connections of it in TIME_WAIT that a server with SO_REUSEADDR left.
    ///
    /// The options are set before the bind, so it succeeds over more than TIME_WAIT and beside another such bind:
    /// the caller looks into the socket table before and after, and its name keeps a second caller out.
    pub(crate) fn over_time_wait(port: u16, _exclusive: &ExclusiveName) -> io::Result<Claim> {
        let socket = wildcard_socket()?;
        system::share(&socket)?;
        socket.bind(&wildcard(port)?.into())?;
        Ok(Claim { socket, port })
    }

    fn test_and_set(port: u16) -> io::Result<Claim> {
        let socket = wildcard_socket()?;
        socket.bind(&wildcard(port)?.into())?;
        let bound = socket.local_addr()?.as_socket().map(|addr| addr.port());
        let port = bound.ok_or(io::ErrorKind::AddrNotAvailable)?;
        system::share(&socket)?;
        Ok(Claim { socket, port })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn identity(&self) -> io::Result<Identity> {
        system::identity(&self.socket)
    }
}

/// What a claim's socket says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Identity {
    /// By which the socket table names it; 0 where sockets have none.
    pub(crate) inode: u64,
    /// Who made it, where it says so: who this process is to the file system.
    pub(crate) user: Option<u32>,
}

/// `[::]` dual stack, or `0.0.0.0` where the machine has no IPv6. Found once per process.
fn wildcard(port: u16) -> io::Result<SocketAddr> {
    static HAS_IPV6: OnceCell<bool> = OnceCell::new();
    let has_ipv6 = HAS_IPV6.get_or_try_init(|| {
        let dual = || {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            socket.set_only_v6(false)?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())
        };
        match dual() {
            Ok(()) => Ok(true),
            // Anything but a want of descriptors or memory means that it would fail the next time too.
            Err(e) if is_exhaustion(&e) => Err(e),
            Err(_) => Ok(false),
        }
    })?;
    let ip = if *has_ipv6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    Ok(SocketAddr::new(ip, port))
}

fn wildcard_socket() -> io::Result<Socket> {
    unbound(Type::STREAM, wildcard(0)?.ip())
}

/// A socket that serves IPv4 too where `ip` is the IPv6 wildcard.
fn unbound(kind: Type, ip: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        if ip.is_ipv4() {
            Domain::IPV4
        } else {
            Domain::IPV6
        },
        kind,
        None,
    )?;
    if ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

fn is_exhaustion(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory || crate::model::error::is_out_of_descriptors(error)
}

/// How a look binds, and so whose way it is in while a child that was forked meanwhile shares its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindMode {
    /// As nobody's neighbour, and no copy is left: any server could bind next.
    Plain,
    /// As nobody's neighbour, and then out of the way of a server that follows the system's custom.
    Exclusive,
    /// As a server that follows the system's custom.
    Server,
}

/// A look: binds and lets go at once. `None` is every address.
pub(crate) fn try_bind(
    protocol: Protocol,
    ip: Option<IpAddr>,
    port: u16,
    mode: BindMode,
) -> io::Result<()> {
    let ip = match ip {
        Some(ip) => ip,
        None => {
            let every = wildcard(port)?.ip();
            if every.is_ipv6() && system::ASKS_FOR_EACH_FAMILY {
                look(protocol, Ipv4Addr::UNSPECIFIED.into(), port, mode)?;
            }
            every
        }
    };
    look(protocol, ip, port, mode)
}

fn look(protocol: Protocol, ip: IpAddr, port: u16, mode: BindMode) -> io::Result<()> {
    let (kind, mode) = match protocol {
        Protocol::Tcp => (Type::STREAM, mode),
        // Two servers of UDP share a number only if they mean to.
        Protocol::Udp | Protocol::UdpLite => (Type::DGRAM, BindMode::Plain),
    };
    let bound = || {
        let socket = unbound(kind, ip)?;
        system::behave(&socket, mode)?;
        system::bind(&socket, SocketAddr::new(ip, port))?;
        Ok(socket)
    };
    match mode {
        BindMode::Plain => fork_guard::wait_for_forked_copies(|| bound().map(drop)),
        // Its copies are the same socket, and share too.
        BindMode::Exclusive => system::share(&bound()?),
        BindMode::Server => bound().map(drop),
    }
}

/// Whether this kernel keeps a claim, and why not: asked of the kernel once per process.
pub(crate) fn kernel_keeps_claims() -> io::Result<Result<(), &'static str>> {
    static ANSWER: OnceCell<Result<(), &'static str>> = OnceCell::new();
    // A stranger who scans numbers can stand in the way of one test, hardly of three.
    const TESTS: usize = 3;
    let test = || {
        for _ in 1..TESTS {
            let answer = self_test()?;
            if answer.is_ok() {
                return Ok(answer);
            }
        }
        self_test()
    };
    ANSWER.get_or_try_init(test).copied()
}

fn self_test() -> io::Result<Result<(), &'static str>> {
    if !cfg!(target_os = "linux") {
        return Ok(Err(
            "what this system's kernel does with a claim has not been measured",
        ));
    }
    let claim = match Claim::any() {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => Claim::outside(e)?,
        other => other?,
    };
    match Claim::exact(claim.port) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
        Err(e) => return Err(e),
        Ok(_) => return Ok(Err("the kernel admits a second claim of a port")),
    }
    match assigns_shared_ports() {
        Some(false) => {}
        Some(true) => {
            return Ok(Err(
                "net.ipv4.ip_autobind_reuse lets the kernel assign a claimed port",
            ));
        }
        None => return Ok(Err("net.ipv4.ip_autobind_reuse cannot be read")),
    }
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let everywhere = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    for ip in loopback.into_iter().chain(everywhere) {
        match serve_over(ip, claim.port) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                return Ok(Err(
                    "the kernel refuses a server with SO_REUSEADDR over a claim",
                ));
            }
            Err(e) if is_exhaustion(&e) => return Err(e),
            // An address family or a loopback address that this machine does not have.
            Err(_) => {}
        }
    }
    Ok(Ok(()))
}

fn serve_over(ip: IpAddr, port: u16) -> io::Result<()> {
    let server = unbound(Type::STREAM, ip)?;
    server.set_reuse_address(true)?;
    server.bind(&SocketAddr::new(ip, port).into())?;
    server.listen(1)
}

/// Whether `bind(…, 0)` with SO_REUSEADDR may be given a number that another such socket has; `None` is unknown.
///
/// The kernel would answer for one number by IP_LOCAL_PORT_RANGE, but no safe call sets that option.
fn assigns_shared_ports() -> Option<bool> {
    let folder = std::path::Path::new("/proc/sys/net/ipv4");
    match std::fs::read_to_string(folder.join("ip_autobind_reuse")) {
        Ok(text) => Some(text.trim() != "0"),
        // Kernels before 5.7 lack the setting, and do not share.
        Err(e)
            if e.kind() == io::ErrorKind::NotFound
                && folder.join("ip_local_port_range").exists() =>
        {
            Some(false)
        }
        Err(_) => None,
    }
}

pub(crate) use name::ExclusiveName;
/// A listener and a bound socket, as the system's custom wants them.
pub(crate) use system::{BIND_MODES, listen, udp_socket};

/// An abstract Unix socket name: per network namespace like the port, without a file, gone with the process.
#[cfg(target_os = "linux")]
mod name {
    use std::io;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use once_cell::sync::OnceCell;

    use crate::model::endpoint::Protocol;

    #[derive(Debug)]
    pub(crate) struct ExclusiveName {
        _bound: UnixDatagram,
    }

    impl ExclusiveName {
        /// Fails with `AddrInUse` while anybody in this network namespace has it, and with `Unsupported` on systems
        /// that have no such names.
        pub(crate) fn take(protocol: Protocol, port: u16) -> io::Result<Self> {
            Ok(ExclusiveName {
                _bound: UnixDatagram::bind_addr(&address(protocol, port)?)?,
            })
        }

        /// Whether anybody in this network namespace has it. A look takes nothing: it connects, and sends nothing.
        pub(crate) fn is_taken(protocol: Protocol, port: u16) -> io::Result<bool> {
            // Kept, as the lock folder is: to make and close a socket takes longer than all else of a free check.
            static ASKER: OnceCell<UnixDatagram> = OnceCell::new();
            let asker = ASKER.get_or_try_init(UnixDatagram::unbound)?;
            match asker.connect_addr(&address(protocol, port)?) {
                Ok(()) => Ok(true),
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
                Err(e) => Err(e),
            }
        }

        /// The name, without the byte that makes it an abstract one.
        pub(crate) fn text(protocol: Protocol, port: u16) -> String {
            format!("portlease/{protocol}/{port}")
        }
    }

    fn address(protocol: Protocol, port: u16) -> io::Result<SocketAddr> {
        SocketAddr::from_abstract_name(ExclusiveName::text(protocol, port))
    }
}

#[cfg(not(target_os = "linux"))]
mod name {
    use std::io;

    use crate::model::endpoint::Protocol;

    #[derive(Debug)]
    pub(crate) struct ExclusiveName;

    impl ExclusiveName {
        pub(crate) fn take(_protocol: Protocol, _port: u16) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn is_taken(_protocol: Protocol, _port: u16) -> io::Result<bool> {
            Ok(false)
        }

        pub(crate) fn text(_protocol: Protocol, _port: u16) -> String {
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[cfg(target_os = "linux")]
    #[test]
    fn a_claim_is_of_the_user_who_this_process_is_to_files() {
        let file = tempfile::tempfile().unwrap();
        let owner = std::os::unix::fs::MetadataExt::uid(&file.metadata().unwrap());
        assert_eq!(Claim::any().unwrap().identity().unwrap().user, Some(owner));
    }

    #[test]
    fn a_look_at_every_address_sees_a_server_on_any_one() {
        let look = |protocol, port| try_bind(protocol, None, port, BindMode::Exclusive);
        for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
            let tcp = TcpListener::bind((ip, 0)).unwrap();
            let port = tcp.local_addr().unwrap().port();
            assert_eq!(
                look(Protocol::Tcp, port).unwrap_err().kind(),
                io::ErrorKind::AddrInUse,
                "{ip}"
            );
            let udp = UdpSocket::bind((ip, 0)).unwrap();
            let port = udp.local_addr().unwrap().port();
            assert_eq!(
                look(Protocol::Udp, port).unwrap_err().kind(),
                io::ErrorKind::AddrInUse,
                "{ip}"
            );
        }
    }

    #[test]
    fn a_socket_of_ours_is_seen_by_a_look_and_gone_when_it_is_dropped() {
        let server = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let addr = server.local_addr().unwrap();
        let look = || {
            try_bind(
                Protocol::Tcp,
                Some(addr.ip()),
                addr.port(),
                BindMode::Exclusive,
            )
        };
        assert_eq!(look().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(server);
        look().unwrap();
        let server = udp_socket((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let addr = server.local_addr().unwrap();
        let look = || {
            try_bind(
                Protocol::Udp,
                Some(addr.ip()),
                addr.port(),
                BindMode::Exclusive,
            )
        };
        assert_eq!(look().unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_second_claim_is_refused_also_while_a_server_listens_over_the_first() {
        let first = Claim::any().unwrap();
        assert_eq!(
            Claim::exact(first.port()).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        let _server = TcpListener::bind((Ipv4Addr::LOCALHOST, first.port())).unwrap();
        assert_eq!(
            Claim::exact(first.port()).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_plain_bind_over_a_claim_is_refused_and_a_servers_is_admitted() {
        let claim = Claim::any().unwrap();
        let look = |mode| try_bind(Protocol::Tcp, None, claim.port(), mode);
        assert_eq!(
            look(BindMode::Exclusive).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        look(BindMode::Server).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_name_excludes_a_second_taker_until_it_is_dropped() {
        let claim = Claim::any().unwrap();
        assert!(!ExclusiveName::is_taken(Protocol::Tcp, claim.port()).unwrap());
        let name = ExclusiveName::take(Protocol::Tcp, claim.port()).unwrap();
        assert!(ExclusiveName::is_taken(Protocol::Tcp, claim.port()).unwrap());
        let again = ExclusiveName::take(Protocol::Tcp, claim.port()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        drop(name);
        assert!(!ExclusiveName::is_taken(Protocol::Tcp, claim.port()).unwrap());
        ExclusiveName::take(Protocol::Tcp, claim.port()).unwrap();
    }

    /// All of them ask by one socket.
    #[test]
    #[cfg(target_os = "linux")]
    fn threads_that_ask_for_names_at_once_are_each_told_of_their_own() {
        let claims = [(); 8].map(|()| Claim::any().unwrap());
        let take = |claim: &Claim| ExclusiveName::take(Protocol::Udp, claim.port()).unwrap();
        let _names: Vec<_> = claims.iter().step_by(2).map(take).collect();
        std::thread::scope(|scope| {
            for (at, claim) in claims.iter().enumerate() {
                scope.spawn(move || {
                    for _ in 0..1000 {
                        let is_taken =
                            ExclusiveName::is_taken(Protocol::Udp, claim.port()).unwrap();
                        assert_eq!(is_taken, at % 2 == 0);
                    }
                });
            }
        });
    }
}
