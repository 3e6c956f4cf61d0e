//! The functions that most tests need: [`reserve_port`] and its variants.

mod explain;
pub(crate) mod options;
mod stable_name;
mod validate;

use crate::inspect::inheritance;
use crate::lease;
use crate::model::error::Result;
use crate::model::lease_info::Lease;
use crate::reservation::Reservation;
use options::ReserveOptions;

/// Reserves a TCP port. While the reservation lives, no other process gets the port from this crate
/// or, normally, from the kernel: see [the guarantees](crate#guarantees).
///
/// ```
/// let p = portlease::reserve_port();
/// let server = std::net::TcpListener::bind(("127.0.0.1", p.port()))?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
///
/// If [`try_reserve_port`] returns an error.
#[doc(alias = "pick_unused_port")]
#[doc(alias = "free port")]
#[track_caller]
pub fn reserve_port() -> Reservation {
    or_panic(try_reserve_port())
}

/// [`reserve_port`], with an error instead of a panic.
///
/// ```
/// let p = portlease::try_reserve_port()?;
/// println!("{p}");
/// # Ok::<(), portlease::Error>(())
/// ```
///
/// # Errors
///
/// The errors of [`ReserveOptions::reserve`]. Its section on races states how long a refused call
/// retries.
#[track_caller]
pub fn try_reserve_port() -> Result<Reservation> {
    ReserveOptions::new().reserve()
}

/// Reserves a UDP port. No other process that uses this crate takes the port, and normally the
/// kernel does not assign it by itself: see [`ReserveOptions::udp`].
///
/// ```
/// let p = portlease::reserve_udp_port();
/// let server = std::net::UdpSocket::bind(("127.0.0.1", p.port()))?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
///
/// If [`try_reserve_udp_port`] returns an error.
#[track_caller]
pub fn reserve_udp_port() -> Reservation {
    or_panic(try_reserve_udp_port())
}

/// [`reserve_udp_port`], with an error instead of a panic.
///
/// ```
/// let p = portlease::try_reserve_udp_port()?;
/// let socket = p.udp_socket()?;
/// # drop(socket);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// The errors of [`ReserveOptions::reserve`]. Its section on races states how long a refused call
/// retries.
#[track_caller]
pub fn try_reserve_udp_port() -> Result<Reservation> {
    ReserveOptions::new().udp().reserve()
}

/// Reserves `N` TCP ports with distinct numbers.
///
/// ```
/// let [leader, follower] = portlease::reserve_ports();
/// assert_ne!(leader.port(), follower.port());
/// ```
///
/// # Panics
///
/// If [`try_reserve_ports`] returns an error.
#[track_caller]
pub fn reserve_ports<const N: usize>() -> [Reservation; N] {
    or_panic(try_reserve_ports())
}

/// [`reserve_ports`], with an error instead of a panic. The call reserves all ports or none.
///
/// ```
/// let [http, grpc] = portlease::try_reserve_ports()?;
/// assert_ne!(http.port(), grpc.port());
/// # Ok::<(), portlease::Error>(())
/// ```
///
/// # Errors
///
/// The errors of [`ReserveOptions::reserve`]. Its section on races states how long a refused call
/// retries.
#[track_caller]
pub fn try_reserve_ports<const N: usize>() -> Result<[Reservation; N]> {
    let reservations = ReserveOptions::new().reserve_many(N)?;
    Ok(reservations
        .try_into()
        .unwrap_or_else(|_| unreachable!("reserve_many(N) returns N reservations")))
}

#[track_caller]
fn or_panic<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:?}"),
    }
}

/// The live reservations of all processes that use this crate, in this network namespace and with
/// this lock folder. They are sorted by port.
///
/// The call does not disturb reservations that other processes make meanwhile. It deletes the lock
/// files of ended reservations. On Unix, only root deletes the lock files of other users.
///
/// ```
/// let p = portlease::ReserveOptions::new().label("primary").reserve()?;
/// let leases = portlease::reservations()?;
/// let own = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
/// assert_eq!(own.pid(), Some(std::process::id()));
/// assert_eq!(own.label(), Some("primary"));
/// # Ok::<(), portlease::Error>(())
/// ```
///
/// # Errors
///
/// [`Lease`](crate::ErrorKind::Lease) if the lock folder cannot be read, and
/// [`Io`](crate::ErrorKind::Io) if the process is out of file descriptors.
///
/// # Platform-specific behavior
///
/// On Linux without `/proc` the network namespace is unknown. The call then returns only
/// reservations that were made without `/proc`. If there are none, the call returns an error
/// instead of an empty list.
pub fn reservations() -> Result<Vec<Lease>> {
    let leases = lease::live().map_err(explain::unread_lock_folder)?;
    Ok(inheritance::of_leases(leases))
}
