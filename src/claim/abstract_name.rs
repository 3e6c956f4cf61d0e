//! On Linux this crate gives each port an abstract Unix socket name (unix(7)). A reservation binds
//! the name if it has no claim (a bound socket), as for UDP ports, or if its port is non-ephemeral.
//! It also binds the name for a claim beside the connections of an earlier server, because such a
//! claim is not exclusive. While the name is bound, no other process can make a reservation that
//! needs the name.
//!
//! Like a port, the name belongs to a network namespace. It has no file. The kernel releases it
//! when no process has the socket open any more.

pub(crate) use system::ExclusiveName;

use crate::model::endpoint::Protocol;

impl ExclusiveName {
    /// The name without the zero byte at its start, which marks a name as abstract.
    pub(crate) fn text(protocol: Protocol, port: u16) -> String {
        format!("portlease/{protocol}/{port}")
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use crate::kept_fd::KeptFd;
    use crate::model::endpoint::Protocol;
    use crate::namespace::PerNamespace;

    #[derive(Debug)]
    pub(crate) struct ExclusiveName {
        _bound: UnixDatagram,
    }

    impl ExclusiveName {
        /// Binds the name. Fails with `AddrInUse` while another socket of this network namespace
        /// has the name. On systems other than Linux the call always fails with `Unsupported`.
        pub(crate) fn take(protocol: Protocol, port: u16) -> io::Result<Self> {
            Ok(ExclusiveName {
                _bound: UnixDatagram::bind_addr(&address(protocol, port)?)?,
            })
        }

        /// Whether a socket of this network namespace has the name. The check connects a socket to
        /// the name and sends nothing. It does not bind the name, so no other process's bind fails
        /// because of the check.
        pub(crate) fn is_taken(protocol: Protocol, port: u16) -> io::Result<bool> {
            // All calls use one socket that the process keeps. Creating and closing a socket takes
            // longer than all other steps of a check for a free port.
            static ASKER: PerNamespace<KeptFd<UnixDatagram>> = PerNamespace::new();
            let make = || KeptFd::new(UnixDatagram::unbound()?);
            let mut kept = ASKER.get_or_try_init(make)?;
            if kept.intact().is_none() {
                kept = ASKER.set(make()?);
            }
            let asker = kept.intact().ok_or(io::ErrorKind::Interrupted)?;
            match asker.connect_addr(&address(protocol, port)?) {
                Ok(()) => Ok(true),
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
                Err(e) => Err(e),
            }
        }
    }

    fn address(protocol: Protocol, port: u16) -> io::Result<SocketAddr> {
        SocketAddr::from_abstract_name(ExclusiveName::text(protocol, port))
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;

    use crate::model::endpoint::Protocol;

    #[derive(Debug)]
    pub(crate) enum ExclusiveName {}

    impl ExclusiveName {
        pub(crate) fn take(_protocol: Protocol, _port: u16) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn is_taken(_protocol: Protocol, _port: u16) -> io::Result<bool> {
            Ok(false)
        }
    }
}
