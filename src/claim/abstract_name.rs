//! On Linux this crate gives each port an abstract Unix socket name (unix(7)). While one
//! reservation has the name bound, the kernel refuses the name to every other reservation.
//!
//! A call that reserves a port tries to bind the name in four cases:
//!
//! - The reservation has no claim (a bound socket), as for UDP ports.
//! - The port is non-ephemeral.
//! - The call requests an exact number, and a socket already has the name. The call then retries
//!   the bind, or reports the conflict.
//! - The claim is beside connections of an earlier server. The kernel would allow a second such
//!   claim, and the name prevents it.
//!
//! In any other case a call that reserves a port only checks that no socket has the name.
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
        _bound: KeptFd<UnixDatagram>,
    }

    impl ExclusiveName {
        /// Binds the name. Fails with `AddrInUse` while another socket of this network namespace
        /// has the name. On systems other than Linux the call always fails with `Unsupported`.
        pub(crate) fn take(protocol: Protocol, port: u16) -> io::Result<Self> {
            let bound = UnixDatagram::bind_addr(&address(protocol, port)?)?;
            Ok(ExclusiveName {
                _bound: KeptFd::sole(bound)?,
            })
        }

        /// Returns `true` if a socket of this network namespace has the name. The check connects to
        /// the name and sends nothing. It does not bind the name, so it cannot make a bind of
        /// another process fail.
        pub(crate) fn is_taken(protocol: Protocol, port: u16) -> io::Result<bool> {
            // The process keeps one socket per network namespace for this check. Creating and
            // closing a socket takes longer than all other steps of a check for a free port.
            static ASKER: PerNamespace<KeptFd<UnixDatagram>> = PerNamespace::new();
            let name = address(protocol, port)?;
            let ask = |asker: &UnixDatagram| match asker.connect_addr(&name) {
                Ok(()) => Ok(true),
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
                Err(e) => Err(e),
            };
            let kept = ASKER.get();
            if let Some(asker) = kept.as_ref().and_then(|kept| kept.intact()) {
                return ask(asker);
            }
            let made = ASKER.set(KeptFd::new(UnixDatagram::unbound()?)?);
            ask(made.intact().ok_or(io::ErrorKind::Interrupted)?)
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
