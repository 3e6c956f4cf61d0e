//! Reserves ports that stay free for the test that asked, asserts that a port is free, and says who holds it when it
//! is not.
//!
//! ```
//! use std::net::{TcpListener, TcpStream};
//!
//! let p = portlease::reserve_port(); //      a TCP port that nobody else will be given
//! let server = TcpListener::bind(("127.0.0.1", p.port()))?; // the server under test, started by number
//! let client = TcpStream::connect(p.addr())?;
//! drop((server, client));
//! let server = TcpListener::bind(("127.0.0.1", p.port()))?; // started again on the same number
//! drop(server);
//! portlease::assert_port_free(&p); //        it let go; else this says who has it
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Which function when
//!
//! | you want | call |
//! |---|---|
//! | a port for a server that is started by number | [`reserve_port`], or [`reserve_ports`] for several |
//! | a listener or a UDP socket, with no window at all on any system | [`Reservation::listen`], [`Reservation::udp_socket`] |
//! | the same, inherited by a child process | [`Reservation::pass_to`], [`Reservation::pass_to_fd`] |
//! | a UDP port; one number for both; a server without SO_REUSEADDR | [`reserve_udp_port`]; [`ReserveOptions::tcp_and_udp`]; [`ReserveOptions::reuse_addr`] |
//! | one exact number, a range, a block, a queue for a fixed number | [`ReserveOptions`] |
//! | a number alone, to the end of the process | [`Reservation::leak`] |
//! | a port that refuses every connection at once | [`reserve_port`], and start nothing |
//! | to know that a server is up, or gone | [`Reservation::wait_for`], [`wait_until_listening`], [`wait_until_free`] |
//! | the same on a tokio runtime, whose thread the server needs | `portlease::tokio` (feature `tokio`) |
//! | a check before a suite, or after a server stopped | [`assert_port_free`], [`assert_ports_free`] |
//! | to know that your own server answers, not another's | [`assert_port_held_by`] |
//! | to know who has a port | [`who_holds`]; with causes and advice, [`diagnose`] |
//! | what is reserved on this machine | [`reservations`] |
//!
//! # Guarantees
//!
//! A socket that is handed over directly ([`Reservation::listen`], [`Reservation::udp_socket`], [`Reservation::pass_to`])
//! is free of any window on every system. A number is promised in three grades, which [`Reservation::guarantee`] tells:
//!
//! | grade | the promise | who keeps it | where |
//! |---|---|---|---|
//! | [`Kernel`](Guarantee::Kernel) | no `bind(…, 0)` and no outgoing connection of anybody's is given the number; every second claim and every bind without the reuse options is refused | the kernel: a socket that is bound and never listens | TCP on Linux |
//! | [`Cooperative`](Guarantee::Cooperative) | the kernel assigns the number to nobody by itself, and no process that uses this crate takes it | the processes that share the lock folder; on Linux, by an abstract socket name, all of the network namespace | UDP, pairs, TCP servers without SO_REUSEADDR; everything on other systems |
//! | [`BestEffort`](Guarantee::BestEffort) | no process that uses this crate takes it; the kernel may assign it to somebody | the same | where the kernel's ephemeral range leaves no other number, or one of it was asked for |
//!
//! The numbers of the second grade lie outside the ephemeral range (`ip_local_port_range`), in IANA's dynamic range
//! (RFC 6335) first, then among the registered ones that no common service uses. On a machine whose ephemeral range is
//! 1024–65535 there are none: there, under the load of `tests/stress`, 14 of 28,787 rounds with UDP servers were lost,
//! 17 of 37,464 with servers without SO_REUSEADDR, 6 of 8,551 with pairs, and 0 of 33,957 with TCP servers, which the
//! kernel keeps.
//!
//! What is *not* promised, in any grade:
//!
//! - that a stranger who names this very number with SO_REUSEADDR set is refused before your server listens: that is
//!   how your server gets it. Programs that try number after number do so;
//! - that a server which sets neither SO_REUSEADDR nor SO_REUSEPORT can bind the number (Python's bare
//!   `socketserver.TCPServer`, Erlang's `gen_tcp` as it comes, Java after `setReuseAddress(false)`), nor one that sets
//!   SO_REUSEPORT alone under another user: it gets `EADDRINUSE`. [`ReserveOptions::reuse_addr`] is for these;
//! - anything against root with `TCP_REPAIR`.
//!
//! # Races
//!
//! **Picked, closed, bound later.** This is what `bind(…, 0)` and every picker of ports does:
//!
//! 1. Your test binds port 0, is given 41023, and closes the socket.
//! 2. Another process connects somewhere; the kernel gives it 41023 as source port, or another test is given it.
//! 3. Your server binds 41023: "address already in use". Or it is another test's server that answers your client.
//!
//! Here, step 1 does not close: the socket stays bound, so that the kernel gives the number to nobody in step 2, and it
//! has SO_REUSEADDR set *after* its bind, so that your server's bind in step 3 succeeds. There is nothing to release
//! before.
//!
//! **Stopped and started again.** Between the two, an unguarded number is anybody's, and may be refused for a minute
//! (TIME_WAIT). A reservation stays in force beside the server, however often that is started, stopped or killed.
//!
//! **The self-connection.** A client that retries on an ephemeral number where nothing listens can be given that
//! number as its own source port and be connected to itself. On a reserved number it is refused, at once, every time.
//!
//! **Dropped too early.** `reserve_port().port()` drops the reservation at the end of the statement, and so does
//! `let _ = reserve_port();`. Bind it to a name, or [`leak`](Reservation::leak) it.
//!
//! # If the process dies
//!
//! However it dies, the kernel takes back the claim and the lock at once: nothing is left to clean up by hand. What
//! stays is a lock file of 1 KiB that nobody has locked; it is used again, or swept by a later process. A test that
//! panics releases its reservations as it unwinds. A child process inherits neither the claim nor the lock.
//!
//! # Platforms
//!
//! | | reserve | check, assert | who holds it |
//! |---|---|---|---|
//! | Linux | kernel's guarantee for TCP | yes | yes: sock_diag(7), `/proc` |
//! | Windows | cooperative | yes | yes: `GetExtendedTcpTable`, `GetExtendedUdpTable` |
//! | macOS | cooperative; compiled, never run | yes | own processes; all as root |
//! | FreeBSD and others | cooperative; compiled, never run | yes, without names | [`Unsupported`](ErrorKind::Unsupported) |
//!
//! `PLATFORMS.md` in the repository says what was run on which system, and under what. On Windows and macOS sockets of
//! ours come from [`Reservation::listen`] and [`Reservation::udp_socket`] without a window, as everywhere; a number is
//! one outside the range that the system assigns from (as `netsh` or sysctl(8) reports it, asked once per process),
//! under a lease. On Windows, sockets of ours set SO_EXCLUSIVEADDRUSE, and a number is free if a server that does could
//! bind it; one in a range that is excluded (Hyper-V and WinNAT take such ranges) counts as in use.
//!
//! On Linux the first reservation of a process asks the kernel, by trying, whether it keeps a claim; the grade follows
//! from the answer, not from a version number. A network namespace is a scope of its own: two do not see or block each
//! other's numbers. Two containers that share a network namespace but not the lock folder do not see each other's
//! leases; the kernel keeps their claims apart all the same, and an abstract Unix socket name (unix(7)) the numbers that
//! have none.
//!
//! # The lock folder
//!
//! On Windows, `portlease` in the user's own temporary directory: leases meet within one user. Elsewhere
//! `/tmp/portlease` (not `TMPDIR`, which differs between processes that must meet), sticky and writable for all, like
//! `/tmp` itself. Users exclude each other and read each other's records, and cannot change them; whoever made the
//! folder can delete files in it. A record holds port, process id, program path, test name, source line, label and
//! time, never a command line or the environment. That another user can lock your lock files is a denial of service
//! they have anyway, by binding. Where the folder cannot be used, what the kernel guarantees is reserved without a
//! record, and anything else is an error.
//!
//! # Environment variables
//!
//! | variable | meaning |
//! |---|---|
//! | `PORTLEASE_DIR` | the lock folder, an absolute path; read once per process. Processes that are to exclude each other must agree on it |
//! | `PORTLEASE_RANGE` | `LOW-HIGH`: every automatic pick comes from it, for machines with a firewall. [`ReserveOptions::range`] is narrowed to it, [`ReserveOptions::port`] is exempt |
//!
//! # Features
//!
//! None by default. `tokio` has the module `portlease::tokio`, waits for tests on a tokio runtime, and
//! `Reservation::listen_tokio` and `udp_socket_tokio`; it adds tokio with `net`, `process`, `rt` and `time`.
//! The dependencies without it are socket2, once_cell, parking_lot, tempfile, fastrand, rustix on Unix and windows-sys
//! on Windows. The command `portlease` is a package of its own, `portlease-cli`.
//!
//! # More pages
//!
//! `portlease::migration`: what portpicker, port_check, get-port, openport, reserve-port and `serial_test` are called
//! for, and what to call here instead. `portlease::suites`: tokio, rstest, nextest, pytest, node, GitHub Actions, Docker.
//!
//! # Minimum Rust version
//!
//! 1.89, for `File::try_lock`.
//!
//! # Related crates
//!
//! `portpicker` finds a number that is free now and keeps nothing, in a tenth of the code. `openport` and
//! `reserve-port` keep numbers apart within one process. `port_check` tells whether a port is free now.
//! `listeners` and `netstat2` list listening sockets on more systems than this crate. `serial_test` keeps whole tests
//! apart, where more than a port is shared.

mod acquire;
mod check;
mod claim;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod inspect;
#[cfg(unix)]
mod kept_fd;
mod lease;
#[cfg(all(doc, not(doctest)))]
#[doc = include_str!("../docs/migration.md")]
pub mod migration {}
mod model;
mod namespace;
mod os_error;
mod ownership;
mod ports;
mod printable;
mod process_id;
mod reservation;
mod reserve;
mod residual;
mod retry;
mod sockets;
#[cfg(all(doc, not(doctest)))]
#[doc = include_str!("../docs/suites.md")]
pub mod suites {}
#[cfg(feature = "tokio")]
pub mod tokio;
mod wait;

pub use check::{
    assert_no_leaked_listeners, assert_port_free, assert_port_free_for, assert_port_held_by,
    assert_port_listening, assert_ports_free, check_no_leaked_listeners, check_port_free,
    check_port_free_for, check_port_held_by, check_port_listening, check_ports_free, is_port_free,
};
pub use inspect::diagnose::diagnose;
pub use inspect::probe::{Reachability, probe};
pub use inspect::who::who_holds;
pub use model::diagnosis::Diagnosis;
pub use model::endpoint::{Endpoint, ParseEndpointError, Protocol};
pub use model::error::{Error, Result};
pub use model::error_kind::ErrorKind;
pub use model::holder::Holder;
pub use model::holders::Holders;
pub use model::lease_info::Lease;
pub use model::process::Process;
pub use model::remedy::Remedy;
pub use model::server_kind::ServerKind;
pub use model::state::State;
pub use model::to_endpoint::ToEndpoint;
pub use reservation::{Guarantee, Reservation};
pub use reserve::options::ReserveOptions;
pub use reserve::{
    reservations, reserve_port, reserve_ports, reserve_udp_port, try_reserve_port,
    try_reserve_ports, try_reserve_udp_port,
};
pub use wait::{wait_until_free, wait_until_listening};
