//! The protocol of portpicker's port server. A client sends a process id and a newline. The server
//! answers with a port number and a newline, or closes the connection to refuse.

use std::io;

use portlease::{Endpoint, ErrorKind, Lease, Protocol, Reservation, ReserveOptions, ServerKind};

use crate::failure::Failure;
use crate::finding::has_claim;
use crate::limits::{PORT_SERVER_ATTEMPTS, PORT_SERVER_TIMEOUT};
use crate::output::json::ReservedRow;
use crate::process::is_in_other_pid_namespace;
use crate::server_address::{PortStream, ServerAddress};
use crate::text::{escape, os_message};

/// A port that is reserved for a process.
#[derive(Debug)]
pub(crate) enum Granted {
    Reserved(Reservation),
    /// The port server holds the reservation until the process that the request names has ended.
    HeldByServer {
        port: u16,
        /// `None` if the server is outside of this pid namespace.
        server: Option<u32>,
    },
}

impl Granted {
    pub(crate) fn port(&self) -> u16 {
        match self {
            Granted::Reserved(reservation) => reservation.port(),
            Granted::HeldByServer { port, .. } => *port,
        }
    }

    pub(crate) fn protocols(&self) -> &[Protocol] {
        match self {
            Granted::Reserved(reservation) => reservation.protocols(),
            // `portlease serve` reserves each number for both protocols.
            Granted::HeldByServer { .. } => &[Protocol::Tcp, Protocol::Udp],
        }
    }

    /// The process that reserved the port. `None` if it is outside of this pid namespace.
    pub(crate) fn owner(&self) -> Option<u32> {
        match self {
            Granted::Reserved(_) => Some(std::process::id()),
            Granted::HeldByServer { server, .. } => *server,
        }
    }

    /// Releases a port that this process reserved. Does nothing for a port that the port server
    /// holds.
    ///
    /// After the release, fails if a process still listens on the port, or if the socket table
    /// cannot be read. On systems without a socket table, the call only releases the port.
    pub(crate) fn release(self) -> portlease::Result<()> {
        match self {
            Granted::Reserved(reservation) => reservation.release(),
            Granted::HeldByServer { .. } => Ok(()),
        }
    }
}

impl From<&Granted> for ReservedRow {
    fn from(granted: &Granted) -> Self {
        match granted {
            Granted::Reserved(reservation) => reservation.into(),
            Granted::HeldByServer { port, .. } => ReservedRow::granted(*port),
        }
    }
}

/// The lease of the port, if the port is reserved on behalf of the process `pid`.
fn lease_for(port: u16, pid: u32) -> Result<Option<Lease>, Failure> {
    let mut leases = portlease::reservations()?;
    leases.retain(|lease| lease.port() == port && lease.on_behalf_of() == Some(pid));
    Ok(leases.pop())
}

fn tcp(port: u16) -> Endpoint {
    Endpoint {
        port,
        ip: None,
        protocol: Some(Protocol::Tcp),
    }
}

/// The port server from which this process requests numbers.
#[derive(Debug)]
pub(crate) struct PortServer(ServerAddress);

impl PortServer {
    /// The server that `PORTSERVER_ADDRESS` names. `None` if the variable is not set, or is empty.
    pub(crate) fn from_env() -> Result<Option<PortServer>, Failure> {
        let Some(address) = std::env::var_os("PORTSERVER_ADDRESS").filter(|a| !a.is_empty()) else {
            return Ok(None);
        };
        let parsed = match address.to_str() {
            Some(address) => address.parse(),
            None => Err("expected UTF-8 text"),
        };
        parsed.map(PortServer).map(Some).map_err(|expected| {
            Failure::new(format!(
                "cannot use the port server {address:?} (PORTSERVER_ADDRESS): {expected}"
            ))
        })
    }

    /// Requests a number from the server, and reserves it. Exception: `portlease serve` has already
    /// reserved the number for the process `pid`. The function then reserves nothing.
    ///
    /// Most other servers only remember their grants, so any program can bind a granted number. If
    /// the number is in use, this function requests another one, up to [`PORT_SERVER_ATTEMPTS`]
    /// times in all.
    ///
    /// `kind` is the kind of server that must be able to bind the number. Fails if the port server
    /// holds the number with a claim (a bound socket), which refuses servers of that kind.
    pub(crate) fn reserve(
        &self,
        options: &ReserveOptions,
        kind: ServerKind,
        pid: u32,
    ) -> Result<Granted, Failure> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let port = self.request_port(pid)?;
            if let Some(lease) = lease_for(port, pid)? {
                let server = lease.pid().filter(|_| !lease.is_foreign());
                if kind == ServerKind::Plain && has_claim(tcp(port), server) {
                    return Err(Failure::new(format!(
                        "cannot apply --no-reuse-addr: the port server {} (PORTSERVER_ADDRESS) \
                         holds port {port}, and its socket refuses servers without SO_REUSEADDR; \
                         start `portlease serve` with --no-reuse-addr, or unset PORTSERVER_ADDRESS",
                        self.0
                    )));
                }
                return Ok(Granted::HeldByServer { port, server });
            }
            match options.clone().port(port).reserve() {
                Err(error)
                    if error.kind() == ErrorKind::InUse && attempts < PORT_SERVER_ATTEMPTS => {}
                Err(error) => return Err(error.into()),
                Ok(reservation) => return Ok(Granted::Reserved(reservation)),
            }
        }
    }

    fn request_port(&self, pid: u32) -> Result<u16, Failure> {
        let cannot = |cause: &str| {
            Failure::new(format!(
                "cannot get a port from the port server {} (PORTSERVER_ADDRESS): {cause}",
                self.0
            ))
        };
        let ask = || -> io::Result<_> {
            let stream = PortStream::connect(&self.0, PORT_SERVER_TIMEOUT)?;
            stream.send(&format!("{pid}\n"))?;
            Ok((stream.receive()?, stream.peer()))
        };
        let (answer, server) = ask().map_err(|e| match e.kind() {
            // A socket reports an expired timeout with one of these two kinds.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => cannot(&format!(
                "no answer within {}",
                humantime::format_duration(PORT_SERVER_TIMEOUT)
            )),
            _ => cannot(&os_message(&e)),
        })?;
        let answer = answer.trim();
        let number = answer.parse().ok().filter(|number| *number > 0);
        number.ok_or_else(|| {
            cannot(&match server {
                _ if !answer.is_empty() => format!(
                    "the server answered \"{}\", which is not a port number",
                    escape(answer)
                ),
                Some(server) if is_in_other_pid_namespace(server) => format!(
                    "the server refused, because it is in another pid namespace, where it cannot \
                     see pid {pid}; start a server in this container, or unset PORTSERVER_ADDRESS"
                ),
                // `portlease serve` refuses pid 1 (see `grant` in `commands::serve`).
                _ if pid == 1 => "the server refused, because it holds no port for pid 1; unset \
                     PORTSERVER_ADDRESS"
                    .to_owned(),
                _ => "the server refused, and sent no port number".to_owned(),
            })
        })
    }
}
