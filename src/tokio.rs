//! For tests on a tokio runtime: waits that leave its thread to others, and sockets of tokio's own (feature `tokio`).
//!
//! The crate's other waits block the thread. On a current-thread runtime, which `#[tokio::test]` makes, the server
//! under test does not run then, and the wait is in vain. These functions wait for the same things and give the thread
//! away between their looks; what takes longer than some microseconds is done on the runtime's threads for blocking
//! work. They are cancelled by being dropped, so `select!` and `timeout` may go around them.
//!
//! ```
//! use portlease::tokio::wait_until_listening;
//! use std::time::Duration;
//! use tokio::net::{TcpListener, TcpStream};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let p = portlease::reserve_port();
//! let addr = p.addr(); // tokio's ToSocketAddrs is sealed: it takes the address, not the reservation
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
//! A server that is given a listener instead of a number needs no wait: [`Reservation::listen_tokio`].
//!
//! # A listener of the standard library's
//!
//! [`Reservation::listen`] makes one that blocks, as the standard library's do, and tokio's `from_std` takes it as it
//! is: in `accept` the runtime's thread then stands still until a client comes (debug builds of recent releases panic
//! instead, on Unix). `set_nonblocking(true)` comes first.
//! [`listen_tokio`](Reservation::listen_tokio) and [`udp_socket_tokio`](Reservation::udp_socket_tokio) have done that.
//!
//! # Child processes
//!
//! [`wait_for`] is for tokio's children. [`Reservation::pass_to`] and [`pass_to_fd`](Reservation::pass_to_fd) work for
//! tokio's `Command` by its `as_std_mut`.
//!
//! # The runtime
//!
//! It must have its timer and its I/O driver enabled, as `#[tokio::test]` and `enable_all` have it; tokio panics
//! otherwise. Times are those of the real clock, also while tokio's own is paused.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use ::tokio::net::{TcpListener, UdpSocket};
use ::tokio::process::Child;
use ::tokio::task::spawn_blocking;
use ::tokio::time::sleep;

use crate::model::error::Result;
use crate::model::port::Port;
use crate::model::to_endpoint::{ToEndpoint, ports_of};
use crate::ownership::Asker;
use crate::reservation::Reservation;
use crate::sockets;
use crate::wait::{ExitInfo, Freeing, Listening, Poll, WaitError};

/// Waits until something listens on the port, as [`wait_until_listening`](crate::wait_until_listening) does, and leaves
/// the thread to others meanwhile.
///
/// It looks about every millisecond, which is how finely tokio's timer goes.
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
/// As [`wait_until_listening`](crate::wait_until_listening).
///
/// # Platform-specific behavior
///
/// Where there is no socket table to look at (macOS, FreeBSD), each look is a connection that is tried, on a thread
/// for blocking work.
pub async fn wait_until_listening(port: impl ToEndpoint, at_most: Duration) -> Result<()> {
    listening(ports_of(&port)?, at_most, || Ok(None)).await
}

/// Waits until the port is free, as [`wait_until_free`](crate::wait_until_free) does, and leaves the thread to others
/// meanwhile.
///
/// A server that runs as a task closes its listener when the runtime drops the task: after `abort` that is when the
/// runtime comes round to it. This waits for that.
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
/// As [`wait_until_free`](crate::wait_until_free).
pub async fn wait_until_free(port: impl ToEndpoint, at_most: Duration) -> Result<()> {
    let mut wait = Freeing::new(ports_of(&port)?, Asker::of(&port), at_most);
    loop {
        // A walk over every socket, and a bind.
        let (step, kept) = apart(move || (wait.poll(), wait)).await;
        wait = kept;
        match step {
            Poll::Met => return Ok(()),
            Poll::Pause(pause) => sleep(pause).await,
            Poll::Failed(vain) => return Err(error(vain).await),
        }
    }
}

/// Waits until something listens on the reservation's [`addr`](Reservation::addr), or fails as soon as the child ends,
/// as [`Reservation::wait_for`] does with a child of the standard library's.
///
/// It asks the child by `try_wait`, which leaves its standard input open.
///
/// ```
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let p = portlease::reserve_port();
/// let mut child = tokio::process::Command::new("false").spawn()?;
/// let error = portlease::tokio::wait_for(&p, &mut child, std::time::Duration::from_secs(10)).await.unwrap_err();
/// assert!(error.to_string().contains("exit status: 1"));
/// # Ok(())
/// # }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
///
/// # Errors
///
/// As [`wait_until_listening`], and [`Io`](crate::ErrorKind::Io) with the child's exit status if it ends first.
pub async fn wait_for(
    reservation: &Reservation,
    child: &mut Child,
    at_most: Duration,
) -> Result<()> {
    // tokio forgets the number of a child that has been waited for.
    let pid = child.id();
    listening(reservation.ports_on_addr(), at_most, || {
        let exit = |status: ExitStatus| ExitInfo {
            pid,
            how: status.to_string(),
        };
        Ok(child.try_wait()?.map(exit))
    })
    .await
}

impl Reservation {
    /// [`listen`](Reservation::listen) as a listener of tokio's (feature `tokio`). The reservation stays in force.
    ///
    /// A server that binds by itself is given the address: tokio's `ToSocketAddrs` is sealed, so it is
    /// `tokio::net::TcpListener::bind(p.addr())`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let p = portlease::reserve_port();
    /// let listener = p.listen_tokio()?; // for axum::serve(listener, router), say
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
    /// As [`listen`](Reservation::listen). "Address already in use" blocks the thread for 100 ms before it is believed:
    /// wait for the end of the server before by [`wait_until_free`].
    ///
    /// # Panics
    ///
    /// tokio's own: outside of a runtime, and in one without its I/O driver.
    pub fn listen_tokio(&self) -> io::Result<TcpListener> {
        let listener = self.listen()?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    /// [`udp_socket`](Reservation::udp_socket) as a socket of tokio's (feature `tokio`). The reservation stays in force.
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
    /// As [`udp_socket`](Reservation::udp_socket).
    ///
    /// # Panics
    ///
    /// As [`listen_tokio`](Reservation::listen_tokio).
    pub fn udp_socket_tokio(&self) -> io::Result<UdpSocket> {
        let socket = self.udp_socket()?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }
}

async fn listening(
    ports: Vec<Port>,
    at_most: Duration,
    mut ended: impl FnMut() -> io::Result<Option<ExitInfo>>,
) -> Result<()> {
    let mut wait = Listening::new(ports, at_most);
    loop {
        // By the table a look takes about as long as waking another thread for it does, and goes on where the threads
        // for blocking work are all taken, by the server maybe.
        let step = if sockets::IS_QUICK {
            wait.poll(&mut ended)
        } else {
            let end = ended();
            let (step, kept) = apart(move || (wait.poll(|| end), wait)).await;
            wait = kept;
            step
        };
        match step {
            Poll::Met => return Ok(()),
            Poll::Pause(pause) => sleep(pause).await,
            Poll::Failed(vain) => return Err(error(vain).await),
        }
    }
}

/// The report looks at every process.
async fn error(vain: WaitError) -> crate::Error {
    apart(move || vain.into_error(false)).await
}

/// On a thread for blocking work.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(value) => value,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being shut down: nobody polls this again.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}
