//! The self-test binds a few sockets to find out whether the kernel keeps the promises of a
//! [`Claim`], this crate's bound socket that never listens.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use super::autobind_reuse::{assigned, assigns_no_claimed_port};
use super::{Claim, system, unbound};
use crate::namespace::PerNamespace;
use crate::retry::SELF_TESTS;

/// Whether this kernel keeps the promises of a [`Claim`]. The inner error says why the kernel does
/// not keep them, or that a sandbox forbids the test. The outer error says why a system call
/// failed, for example for a lack of descriptors.
///
/// The process caches the answer of `test` for each network namespace. If a sandbox forbids the
/// test, or if a system call fails, nothing is cached, and the next call repeats the test.
///
/// Each call also reads the setting `ip_autobind_reuse`. That setting can change at any time, and
/// if it is on, the kernel can assign a claimed number.
pub(crate) fn kernel_keeps_claims(
    test: impl FnOnce() -> Result<Answer, Untested>,
) -> io::Result<Answer> {
    static ANSWER: PerNamespace<Answer> = PerNamespace::new();
    // While ip_autobind_reuse is on, the self-test can find that the kernel keeps no claims. The
    // process would cache this answer, and would still use it after the setting is turned off. So
    // this function checks the setting before the test.
    if let Err(reason) = assigns_no_claimed_port()? {
        return Ok(Err(reason));
    }
    match ANSWER.get_or_try_init(test) {
        Ok(answer) => Ok(*answer),
        Err(Untested::Forbidden) => Ok(Err(
            "a sandbox forbids the binds with which portlease tests the kernel",
        )),
        Err(Untested::Failed(cause)) => Err(cause),
    }
}

/// Tests up to [`SELF_TESTS`] times whether this kernel keeps the promises of a [`Claim`]. The
/// first yes ends the tests.
///
/// The test claims the first of `numbers` that is not in use. The number 0 lets the kernel choose.
/// One number is enough, because the kernel treats claims of all numbers alike.
pub(crate) fn test_kernel<N: Iterator<Item = u16>>(
    numbers: impl Fn() -> io::Result<N>,
) -> Result<Answer, Untested> {
    for _ in 1..SELF_TESTS {
        let answer = self_test(numbers()?)?;
        if answer.is_ok() {
            return Ok(answer);
        }
    }
    self_test(numbers()?)
}

/// Tests only whether a sandbox forbids this process to make claims (bound sockets that never
/// listen). This test is enough for a process that already knows that the kernel keeps claims.
///
/// The test makes one claim. The function returns the claim if the kernel chose the port number.
pub(crate) fn test_sandbox<N: Iterator<Item = u16>>(
    numbers: impl Fn() -> io::Result<N>,
) -> Result<Option<Claim>, Untested> {
    let (claim, is_ephemeral) = claim_first(numbers()?)?;
    Ok(Some(claim).filter(|_| is_ephemeral))
}

/// Whether the kernel keeps the promises of a [`Claim`]. The error says why the kernel does not.
pub(crate) type Answer = Result<(), &'static str>;

/// Why the self-test has no answer.
#[derive(Debug)]
pub(crate) enum Untested {
    /// A system call failed with EACCES or EPERM, although the numbers of the test require no
    /// privilege. A sandbox does this.
    Forbidden,
    Failed(io::Error),
}

impl From<io::Error> for Untested {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Untested::Forbidden,
            _ => Untested::Failed(error),
        }
    }
}

fn self_test(numbers: impl Iterator<Item = u16>) -> Result<Answer, Untested> {
    if !cfg!(target_os = "linux") {
        return Ok(Err("portlease claims ports in the kernel only on Linux"));
    }
    let (claim, is_ephemeral) = claim_first(numbers)?;
    match Claim::exact(claim.port) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
        Err(e) => return Err(e.into()),
        Ok(_) => {
            return Ok(Err(
                "the kernel lets a second socket bind a port that another socket has claimed",
            ));
        }
    }
    let ipv4 = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into());
    let ipv6 = (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into());
    for (loopback, wildcard) in [ipv4, ipv6] {
        let answer = test_family(loopback, wildcard, claim.port, is_ephemeral)?;
        if answer.is_err() {
            return Ok(answer);
        }
    }
    Ok(Ok(()))
}

/// Tests the promises of the claim on `port` with servers of one IP family. The answer is also `Ok`
/// if the kernel lacks the family.
fn test_family(
    loopback: IpAddr,
    wildcard: IpAddr,
    port: u16,
    is_ephemeral: bool,
) -> Result<Answer, Untested> {
    let family = Domain::for_address(SocketAddr::new(loopback, port));
    let plain = match Socket::new(family, Type::STREAM, None) {
        Err(e) if system::is_missing_family(&e) => return Ok(Ok(())),
        made => made?,
    };
    // The kernel must also refuse sockets that serve only IPv6.
    if loopback.is_ipv6() {
        plain.set_only_v6(true)?;
    }
    // A refused bind leaves the socket unbound, so one socket is enough for both addresses.
    for ip in [loopback, wildcard] {
        match plain.bind(&SocketAddr::new(ip, port).into()) {
            Ok(()) => {
                return Ok(Err(
                    "the kernel lets a server without SO_REUSEADDR bind a claimed port",
                ));
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse || is_missing_address(&e) => {}
            Err(e) => return Err(e.into()),
        }
    }
    for (ip, server) in [
        (loopback, plain),
        (wildcard, unbound(Type::STREAM, wildcard)?),
    ] {
        match serve_over(server, ip, port, is_ephemeral) {
            Ok(Served::ByNumber) => {}
            Ok(Served::ByAssignment) => {
                return Ok(Err(
                    "the kernel assigns a claimed port to a socket with SO_REUSEADDR",
                ));
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                return Ok(Err(
                    "the kernel refuses a server with SO_REUSEADDR on a claimed port",
                ));
            }
            Err(e) if is_missing_address(&e) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(Ok(()))
}

/// Whether the bind failed because this machine lacks the address or its family.
fn is_missing_address(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || system::is_missing_family(error)
}

/// Claims the first of these numbers that is not in use. The `bool` is `true` if the kernel chose
/// the number, which is then ephemeral. If all numbers are in use, returns the last refusal.
fn claim_first(numbers: impl Iterator<Item = u16>) -> io::Result<(Claim, bool)> {
    let mut refusal = io::ErrorKind::AddrInUse.into();
    for number in numbers {
        match Claim::exact(number) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => refusal = e,
            outcome => return outcome.map(|claim| (claim, number == 0)),
        }
    }
    Err(refusal)
}

/// How a server got the claimed number.
enum Served {
    /// The server bound the number, as every server with SO_REUSEADDR may.
    ByNumber,
    /// The kernel assigned the number to a `bind(…, 0)` of the server.
    ByAssignment,
}

/// Binds the server to the claimed number and listens. If the number is ephemeral, the server first
/// binds port 0, with a limit that lets the kernel assign only the claimed number. A kernel that
/// keeps claims refuses this first bind, which leaves the socket unbound. Linux before 6.3 cannot
/// limit a bind to one number, so there the server makes no first bind.
///
/// If the number is not ephemeral, the server does not bind port 0 first. The kernel would ignore
/// the limit to the claimed number (`inet_sk_get_local_port_range`), and would assign another
/// number, perhaps the last free one.
fn serve_over(mut server: Socket, ip: IpAddr, port: u16, is_ephemeral: bool) -> io::Result<Served> {
    server.set_reuse_address(true)?;
    let assigned = if is_ephemeral {
        assigned(&server, ip, port)?
    } else {
        None
    };
    match assigned {
        None => {}
        Some(number) if number == port => return Ok(Served::ByAssignment),
        Some(_) => {
            server = unbound(Type::STREAM, ip)?;
            server.set_reuse_address(true)?;
        }
    }
    server.bind(&SocketAddr::new(ip, port).into())?;
    server.listen(1)?;
    Ok(Served::ByNumber)
}
