//! The functions most tests need: [`reserve_port`] and its kin.

mod explain;
pub(crate) mod options;

use crate::lease;
use crate::model::error::Result;
use crate::model::lease_info::Lease;
use crate::reservation::Reservation;
use options::ReserveOptions;

/// Reserves a TCP port that nobody else will be given.
///
/// # Panics
///
/// Where [`try_reserve_port`] returns an error.
///
/// ```
/// let p = portlease::reserve_port();
/// let server = std::net::TcpListener::bind(("127.0.0.1", p.port()))?;
/// # Ok::<(), std::io::Error>(())
/// ```
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
/// As [`ReserveOptions::reserve`].
#[track_caller]
pub fn try_reserve_port() -> Result<Reservation> {
    ReserveOptions::new().reserve()
}

/// Reserves a UDP port that no cooperating process will be given, nor anybody by the kernel's choice.
///
/// See [`ReserveOptions::udp`] for what keeps it.
///
/// # Panics
///
/// Where [`try_reserve_udp_port`] returns an error.
///
/// ```
/// let p = portlease::reserve_udp_port();
/// let server = std::net::UdpSocket::bind(("127.0.0.1", p.port()))?;
/// # Ok::<(), std::io::Error>(())
/// ```
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
/// As [`ReserveOptions::reserve`].
#[track_caller]
pub fn try_reserve_udp_port() -> Result<Reservation> {
    ReserveOptions::new().udp().reserve()
}

/// Reserves `N` TCP ports with distinct numbers.
///
/// # Panics
///
/// Where [`try_reserve_ports`] returns an error.
///
/// ```
/// let [leader, follower] = portlease::reserve_ports();
/// assert_ne!(leader.port(), follower.port());
/// ```
#[track_caller]
pub fn reserve_ports<const N: usize>() -> [Reservation; N] {
    or_panic(try_reserve_ports())
}

/// [`reserve_ports`], with an error instead of a panic: all of them or none.
///
/// ```
/// let [http, grpc] = portlease::try_reserve_ports()?;
/// assert_ne!(http.port(), grpc.port());
/// # Ok::<(), portlease::Error>(())
/// ```
///
/// # Errors
///
/// As [`ReserveOptions::reserve`].
#[track_caller]
pub fn try_reserve_ports<const N: usize>() -> Result<[Reservation; N]> {
    let many = ReserveOptions::new().reserve_many(N)?;
    Ok(many
        .try_into()
        .unwrap_or_else(|_| unreachable!("reserve_many returns as many as it was asked for")))
}

#[track_caller]
fn or_panic<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:?}"),
    }
}

/// The live reservations on this machine, of this process and of all others that cooperate, by port: those in this
/// network namespace and this lock folder.
///
/// Looking makes no reservation fail. Files that killed processes left are swept on the way.
///
/// ```
/// let p = portlease::ReserveOptions::new().label("primary").reserve()?;
/// let mine = portlease::reservations()?.into_iter().find(|lease| lease.port() == p.port()).unwrap();
/// assert_eq!(mine.pid(), Some(std::process::id()));
/// assert_eq!(mine.label(), Some("primary"));
/// # Ok::<(), portlease::Error>(())
/// ```
///
/// # Errors
///
/// [`Lease`](crate::ErrorKind::Lease) where the lock folder cannot be read.
pub fn reservations() -> Result<Vec<Lease>> {
    lease::live().map_err(explain::lock_folder)
}
