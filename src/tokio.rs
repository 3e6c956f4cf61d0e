//! For tests on a tokio runtime (feature `tokio`): functions that wait without blocking the thread,
//! and tokio sockets.
//!
//! The crate's other waits block the thread. On a current-thread runtime, the default of
//! `#[tokio::test]`, a server task does not run during the wait. If the server does not listen yet,
//! the wait times out. The functions of this module wait for the same conditions, and let
//! other tasks run between two polls. Slow work, such as a report or a trial bind, runs on the
//! runtime's threads for blocking work. A wait is cancelled when its future is dropped, so
//! `select!` and `timeout` work with it.
//!
//! ```
//! use portlease::tokio::wait_until_listening;
//! use std::time::Duration;
//! use tokio::net::{TcpListener, TcpStream};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let p = portlease::reserve_port();
//! let addr = p.addr(); // tokio's ToSocketAddrs is sealed, so it takes no reservation
//! let server = tokio::spawn(async move {
//!     let listener = TcpListener::bind(addr).await?;
//!     listener.accept().await
//! });
//! wait_until_listening(&p, Duration::from_secs(10)).await?;
//! TcpStream::connect(p.addr()).await?;
//! server.await??;
//! # Ok(())
//! # }
//! ```
//!
//! No wait is needed for a server that takes a listener instead of a port number:
//! [`Reservation::listen_tokio`] returns such a listener.
//!
//! # Listeners of the standard library
//!
//! [`Reservation::listen`] returns a blocking listener, as the standard library does. Call
//! `set_nonblocking(true)` before tokio's `from_std`. Otherwise the listener stays blocking, and
//! `accept` blocks the runtime's thread until a client connects. On Unix, debug builds of recent
//! tokio releases panic in `from_std` instead. [`listen_tokio`](Reservation::listen_tokio) and
//! [`udp_socket_tokio`](Reservation::udp_socket_tokio) call `set_nonblocking` for you.
//!
//! # Child processes
//!
//! [`Reservation::spawn_tokio`] starts a program and waits until it listens. [`wait_for`] takes a
//! tokio child. [`Reservation::pass_to`] and [`pass_to_fd`](Reservation::pass_to_fd) take a
//! `Command` of the standard library. For a tokio `Command`, pass the result of its `as_std_mut`.
//!
//! # The runtime
//!
//! The runtime's timer and I/O driver must be enabled, otherwise tokio can panic. `#[tokio::test]`
//! and `enable_all` enable both. The waits measure time by the real clock, even while tokio's clock
//! is paused.

use std::io;
use std::time::Duration;

use ::tokio::net::{TcpListener, UdpSocket};
use ::tokio::process::Child;
use ::tokio::task::spawn_blocking;
use ::tokio::time::sleep;

use crate::inspect::expected::Expected;
use crate::model::error::{Error, Result};
use crate::model::port::Port;
use crate::model::server_kind::ServerKind;
use crate::model::to_endpoint::{ToEndpoint, listening_ports_of, ports_of};
use crate::ownership::Asker;
use crate::reservation::Reservation;
use crate::sockets;
use crate::wait::{ExitInfo, Freeing, Listening, Poll, WaitError};

mod server;

pub use server::Server;

/// Waits until something listens on the port, as
/// [`wait_until_listening`](crate::wait_until_listening) does, without blocking the thread.
///
/// The wait polls about every millisecond, which is the resolution of the tokio timer.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let p = portlease::reserve_port();
/// let server = p.listen_tokio()?;
/// portlease::tokio::wait_until_listening(&p, std::time::Duration::from_secs(10)).await?;
/// # drop(server);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The errors of [`portlease::wait_until_listening`](crate::wait_until_listening). The report takes
/// additional time after `at_most`.
///
/// # Platform-specific behavior
///
/// On Linux and Windows a poll is usually quick, and runs on the thread of the task. On other
/// systems a poll runs on a thread for blocking work. On macOS a poll reads every process. On
/// systems without a socket table, such as FreeBSD, a poll tries to connect.
pub async fn wait_until_listening(port: impl ToEndpoint, at_most: Duration) -> Result<()> {
    listening(listening_ports_of(&port)?, None, at_most, || Ok(None)).await
}

/// Waits until the port is free, as [`wait_until_free`](crate::wait_until_free) does, without
/// blocking the thread.
///
/// A server that runs as a task closes its listener when the runtime drops the task. After `abort`
/// some time may pass before the runtime drops the task. This function waits until the listener is
/// closed.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let p = portlease::reserve_port();
/// let listener = p.listen_tokio()?;
/// let server = tokio::spawn(async move { listener.accept().await.map(drop) });
/// server.abort();
/// portlease::tokio::wait_until_free(&p, std::time::Duration::from_secs(10)).await?;
/// let again = p.listen_tokio()?;
/// # drop(again);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The errors of [`portlease::wait_until_free`](crate::wait_until_free). The last check and the
/// report take additional time after `at_most`.
pub async fn wait_until_free(port: impl ToEndpoint, at_most: Duration) -> Result<()> {
    let (ports, asker) = (ports_of(&port)?, Asker::of(&port));
    freeing(Freeing::new(ports, ServerKind::ReuseAddr, asker, at_most)).await
}

async fn freeing(mut wait: Freeing) -> Result<()> {
    loop {
        // A poll can read every socket and bind the ports, which takes too long for the runtime's
        // thread.
        let (poll, polled) = run_blocking(move || (wait.poll(), wait)).await;
        wait = polled;
        match poll {
            Poll::Met => return Ok(()),
            Poll::Pause(pause) => sleep(pause).await,
            Poll::Failed(failure) => return Err(error(failure).await),
        }
    }
}

/// Waits until the child, or a process that it started, listens on the reservation's
/// [`addr`](Reservation::addr). [`wait_until_held_by`](crate::wait_until_held_by) says which
/// listeners the wait accepts. The wait fails in the same cases as [`Reservation::wait_for`], which
/// takes a child of the standard library.
///
/// The wait polls the child by `try_wait`, which leaves the child's standard input open.
///
/// ```
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// let p = portlease::reserve_port();
/// let mut child = tokio::process::Command::new("false").spawn()?;
/// let ended = portlease::tokio::wait_for(&p, &mut child, Duration::from_secs(10)).await;
/// let error = ended.unwrap_err();
/// assert!(error.to_string().contains("exit status: 1"));
/// # Ok(())
/// # }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
///
/// # Errors
///
/// The errors of [`wait_until_listening`]. If the child ends before the wait accepts a listener,
/// the error is [`Io`](crate::ErrorKind::Io), with the child's exit status in the message.
pub async fn wait_for(
    reservation: &Reservation,
    child: &mut Child,
    at_most: Duration,
) -> Result<()> {
    // Once tokio has reaped the child, `id` returns `None`.
    let expected = child.id().map_or_else(Expected::ended, Expected::new);
    listening(
        listening_ports_of(&reservation)?,
        Some(expected),
        at_most,
        || ExitInfo::of(child.try_wait()),
    )
    .await
}

impl Reservation {
    /// Calls [`listen`](Reservation::listen) and returns a tokio listener (feature `tokio`). The
    /// reservation stays in force.
    ///
    /// To bind with tokio itself, pass `p.addr()`: `tokio::net::TcpListener::bind(p.addr())`. A
    /// `&p` does not work there, because tokio's `ToSocketAddrs` is sealed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let p = portlease::reserve_port();
    /// let listener = p.listen_tokio()?; // for example for axum::serve(listener, router)
    /// tokio::net::TcpStream::connect(p.addr()).await?;
    /// drop(listener);
    /// let listener = tokio::net::TcpListener::bind(p.addr()).await?; // the same, by number
    /// # drop(listener);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`listen`](Reservation::listen). The call retries "address already in use" as
    /// `listen` does, for about 2 s at most, and blocks the thread meanwhile. To avoid the retries,
    /// await [`wait_until_free`] first.
    ///
    /// # Panics
    ///
    /// tokio panics outside of a runtime, and in a runtime without its I/O driver.
    pub fn listen_tokio(&self) -> io::Result<TcpListener> {
        let listener = self.listen()?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    /// Calls [`udp_socket`](Reservation::udp_socket) and returns a tokio socket (feature `tokio`).
    /// The reservation stays in force.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let p = portlease::reserve_udp_port();
    /// let socket = p.udp_socket_tokio()?;
    /// let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    /// client.send_to(b"hello", p.addr()).await?;
    /// assert_eq!(socket.recv_from(&mut [0; 16]).await?.0, 5);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`udp_socket`](Reservation::udp_socket). The call retries "address already in
    /// use" as [`listen`](Reservation::listen) does, for about 2 s at most, and blocks the thread
    /// meanwhile.
    ///
    /// # Panics
    ///
    /// tokio panics outside of a runtime, and in a runtime without its I/O driver.
    pub fn udp_socket_tokio(&self) -> io::Result<UdpSocket> {
        let socket = self.udp_socket()?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }
}

async fn listening(
    ports: Vec<Port>,
    expected: Option<Expected>,
    at_most: Duration,
    mut exit_info: impl FnMut() -> io::Result<Option<ExitInfo>>,
) -> Result<()> {
    let mut wait = Listening::new(ports, expected, at_most);
    loop {
        // A quick poll runs on the thread of this task, for two reasons. Waking another thread
        // takes about as long as the poll. The server under test may keep all threads for blocking
        // work busy. A poll that searches for owners takes longer, but is usually the last poll.
        let poll = if sockets::IS_QUICK {
            wait.poll(&mut exit_info)
        } else {
            let exit = exit_info();
            let (poll, polled) = run_blocking(move || (wait.poll(|| exit), wait)).await;
            wait = polled;
            poll
        };
        match poll {
            Poll::Met => return Ok(()),
            Poll::Pause(pause) => sleep(pause).await,
            Poll::Failed(failure) => return Err(error(failure).await),
        }
    }
}

/// Makes the report on a thread for blocking work, because a report can read every process.
async fn error(failure: WaitError) -> Error {
    run_blocking(move || failure.into_error(false)).await
}

async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(value) => value,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and will not poll this future again.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}
