//! Unix: a socket with a path, or on Linux with an abstract name.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::limits::{
    PORT_SERVER_LINE_BYTES, PORT_SERVER_TIMEOUT, SERVER_START_LIMIT, SERVER_START_PAUSE, sleep,
};
use crate::signals::{die_by, starts_ignored};

/// The address of a port server: `@name` in the abstract namespace of Linux, or the path of a Unix
/// socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerAddress {
    Abstract(String),
    Path(PathBuf),
}

impl FromStr for ServerAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let has_names = cfg!(target_os = "linux");
        match text.strip_prefix('@') {
            None if text.is_empty() && has_names => {
                Err("expected @NAME or the path of a Unix socket")
            }
            None if text.is_empty() => Err("expected the path of a Unix socket"),
            Some(_) if !has_names => {
                Err("expected the path of a Unix socket, because @NAME needs Linux")
            }
            Some("") => Err("expected a name after the @"),
            Some(name) => Ok(ServerAddress::Abstract(name.to_owned())),
            None => Ok(ServerAddress::Path(text.into())),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddress::Abstract(name) => write!(f, "@{name}"),
            ServerAddress::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl ServerAddress {
    fn resolve(&self) -> io::Result<SocketAddr> {
        match self {
            #[cfg(target_os = "linux")]
            ServerAddress::Abstract(name) => SocketAddr::from_abstract_name(name),
            #[cfg(not(target_os = "linux"))]
            ServerAddress::Abstract(_) => Err(io::ErrorKind::Unsupported.into()),
            ServerAddress::Path(path) => SocketAddr::from_pathname(path),
        }
    }

    /// Connects, and repeats a refused connect for up to [`SERVER_START_LIMIT`]. `timeout` limits
    /// each connect, and each later read and write.
    fn connect(&self, timeout: Duration) -> io::Result<UnixStream> {
        let address = match self {
            #[cfg(target_os = "linux")]
            ServerAddress::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
            #[cfg(not(target_os = "linux"))]
            ServerAddress::Abstract(_) => return Err(io::ErrorKind::Unsupported.into()),
            ServerAddress::Path(path) => SocketAddrUnix::new(path)?,
        };
        let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        let stream = UnixStream::from(socket);
        stream.set_read_timeout(Some(timeout))?;
        // Linux applies the timeout of writes to connect(2) too. So a connect does not block
        // forever while the queue of a suspended server is full. Other systems refuse such a
        // connect at once.
        stream.set_write_timeout(Some(timeout))?;
        let started = Instant::now();
        loop {
            match connect(&stream, &address) {
                // A server that is starting may have bound its address, but does not listen yet.
                Err(Errno::CONNREFUSED) if started.elapsed() < SERVER_START_LIMIT => {
                    sleep(SERVER_START_PAUSE);
                }
                outcome => {
                    outcome?;
                    return Ok(stream);
                }
            }
        }
    }

    fn bind(&self) -> io::Result<UnixListener> {
        UnixListener::bind_addr(&self.resolve()?)
    }
}

/// A connection to a client or to a server.
#[derive(Debug)]
pub(crate) struct PortStream(UnixStream);

impl PortStream {
    /// Connects, and repeats a refused connect for up to [`SERVER_START_LIMIT`]. `timeout` limits
    /// each connect, and each later read and write.
    pub(crate) fn connect(address: &ServerAddress, timeout: Duration) -> io::Result<PortStream> {
        Ok(PortStream(address.connect(timeout)?))
    }

    /// The pid of the process at the other end. The pid is 0 if that process has no pid in the pid
    /// namespace of this process. `None` if getsockopt(2) fails, and on systems other than Linux,
    /// which have no pid namespaces.
    pub(crate) fn peer(&self) -> Option<u32> {
        #[cfg(target_os = "linux")]
        {
            let peer = getsockopt(&self.0, PeerCredentials).ok();
            peer.map(|peer| peer.pid().cast_unsigned())
        }
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// Reads a line. Returns an empty text if the other side has disconnected.
    pub(crate) fn receive(&self) -> io::Result<String> {
        let mut line = String::new();
        BufReader::new((&self.0).take(PORT_SERVER_LINE_BYTES)).read_line(&mut line)?;
        Ok(line)
    }

    pub(crate) fn send(&self, line: &str) -> io::Result<()> {
        (&self.0).write_all(line.as_bytes())
    }
}

/// The socket of `serve`.
#[derive(Debug)]
pub(crate) struct PortListener(UnixListener);

impl PortListener {
    /// Listens on the address. After this call, SIGINT or SIGTERM makes this process remove its
    /// socket file and end. A signal that was ignored when this process started stays ignored.
    pub(crate) fn bind(address: &ServerAddress) -> io::Result<PortListener> {
        // Installs the handlers before the socket exists. Otherwise a signal could end this process
        // and leave the socket file behind.
        let signals = Signals::new(
            [SIGINT, SIGTERM]
                .into_iter()
                .filter(|signal| !starts_ignored(*signal)),
        )?;
        let listener = bind(address)?;
        exit_on_signal(signals, address.clone())?;
        raise_descriptor_limit();
        Ok(PortListener(listener))
    }

    /// Waits for a client. `timeout` limits each later read and write.
    pub(crate) fn accept(&mut self, timeout: Duration) -> io::Result<PortStream> {
        let (stream, _) = self.0.accept()?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(PortStream(stream))
    }
}

/// Binds the address. Replaces a socket file on which no process listens, such as one that a killed
/// server left.
fn bind(address: &ServerAddress) -> io::Result<UnixListener> {
    match (address.bind(), address) {
        (Err(e), ServerAddress::Path(path)) if e.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            let leads_to_socket = match path.metadata() {
                Ok(of) => of.file_type().is_socket(),
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                    let text = "the path is a symbolic link to a file that does not exist";
                    return Err(io::Error::other(text));
                }
                Err(cause) => return Err(cause),
            };
            if !leads_to_socket {
                return Err(io::Error::other("the path exists and is not a socket"));
            }
            let refused = address
                .connect(PORT_SERVER_TIMEOUT)
                .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            if !(is_socket && refused) {
                return Err(e);
            }
            std::fs::remove_file(path)?;
            address.bind()
        }
        (outcome, _) => outcome,
    }
}

fn exit_on_signal(mut signals: Signals, address: ServerAddress) -> io::Result<()> {
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            if let ServerAddress::Path(path) = address {
                // The call fails if another process has already removed the socket file.
                let _removed = std::fs::remove_file(path);
            }
            std::process::exit(i32::from(die_by(signal)));
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)?;
    Ok(())
}

/// Raises the limit of open descriptors, because each reservation needs several.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn an_address_that_starts_with_at_is_abstract() {
        assert_eq!("@a".parse(), Ok(ServerAddress::Abstract("a".to_owned())));
        assert_eq!(ServerAddress::Abstract("a".to_owned()).to_string(), "@a");
    }

    #[test]
    fn an_address_without_at_is_a_path() {
        assert_eq!(
            "/run/a@b".parse(),
            Ok(ServerAddress::Path("/run/a@b".into()))
        );
        assert!("".parse::<ServerAddress>().is_err() && "@".parse::<ServerAddress>().is_err());
    }

    #[test]
    fn a_server_that_accepts_no_client_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let address = ServerAddress::Path(folder.path().join("socket"));
        let suspended = address.bind().unwrap();
        rustix::net::listen(&suspended, 0).unwrap();
        let timeout = Duration::from_millis(20);
        let mut waiting = Vec::new();
        // Once the queue is full, Linux makes a connect wait, and other systems refuse the connect.
        let error = loop {
            match PortStream::connect(&address, timeout) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 100);
        };
        let expected = match cfg!(target_os = "linux") {
            true => io::ErrorKind::WouldBlock,
            false => io::ErrorKind::ConnectionRefused,
        };
        assert_eq!(error.kind(), expected, "{error}");
    }

    #[test]
    fn a_client_waits_for_a_server_that_has_bound_its_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let server = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&server, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        let address = ServerAddress::Path(path);
        let starting = std::thread::spawn(move || {
            sleep(SERVER_START_LIMIT / 10);
            rustix::net::listen(&server, 8).unwrap();
            server
        });
        PortStream::connect(&address, PORT_SERVER_TIMEOUT).unwrap();
        starting.join().unwrap();
    }

    #[test]
    fn an_answer_without_a_number_is_a_refusal() {
        for (answer, number) in [
            ("41023\n", Some(41023)),
            ("7", Some(7)),
            ("", None),
            ("x\n", None),
            ("1 2\n", None),
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(answer.as_bytes()).unwrap();
            drop(theirs);
            assert_eq!(
                PortStream(ours).receive_number().unwrap(),
                number,
                "{answer:?}"
            );
        }
    }
}
