//! Reserves ports that stay free for the test that asked, asserts that a port is free, and reports
//! who holds it when it is not.
//!
//! ```
//! use std::net::TcpStream;
//! use std::process::Command;
//! use std::time::Duration;
//!
//! #[test]
//! fn the_server_answers_after_a_restart() -> Result<(), Box<dyn std::error::Error>> {
//!     let p = portlease::reserve_port(); // a TCP port that no other process gets
//!     let mut command = Command::new("python3");
//!     command.args(["-m", "http.server", &p.to_string()]); // the server is started by number
//!     let mut server = p.spawn(command, Duration::from_secs(30))?; // returns when it listens
//!     TcpStream::connect(server.addr())?;
//!     server.restart()?; // on the same number
//!     TcpStream::connect(server.addr())?;
//!     Ok(()) // stops the server, then releases the port
//! }
//! ```
//!
//! A server in the test's own process binds the number, or gets a listener that is already bound:
//!
//! ```
//! use std::net::{TcpListener, TcpStream};
//!
//! let p = portlease::reserve_port();
//! let server = TcpListener::bind(("127.0.0.1", p.port()))?; // or p.listen()?
//! let client = TcpStream::connect(p.addr())?;
//! drop((server, client));
//! let server = TcpListener::bind(("127.0.0.1", p.port()))?; // started again on the same number
//! drop(server);
//! portlease::assert_port_free(&p); // if the server still runs, this names its process
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Keep the reservation as long as the server runs: store it in a variable, or
//! [`leak`](Reservation::leak) it. Both `reserve_port().port()` and `let _ = reserve_port();` drop
//! the reservation at the end of the statement.
//!
//! # Which function when
//!
//! | you want | call |
//! |---|---|
//! | a port for a server that is started by number | [`reserve_port`] |
//! | a server program, started, restarted and ended on a port | [`Reservation::spawn`] |
//! | several ports | [`reserve_ports`] |
//! | a listener or UDP socket that is already bound | [`Reservation::listen`], [`udp_socket`][1] |
//! | a bound socket that a child process inherits | [`Reservation::pass_to`], [`pass_to_fd`][2] |
//! | a bound socket that a child inherits through a script | [`Reservation::pass_to_wrapper`] |
//! | a UDP port | [`reserve_udp_port`] |
//! | one number for TCP and UDP | [`ReserveOptions::tcp_and_udp`] |
//! | a port for a server without SO_REUSEADDR | [`ReserveOptions::reuse_addr`] |
//! | several exact numbers, all or none | [`ReserveOptions::ports`] |
//! | an exact number, a range, a block | [`ReserveOptions`] |
//! | to wait until an exact number is released | [`ReserveOptions::wait`] |
//! | the same number run after run, with nothing stored | [`ReserveOptions::named`] |
//! | numbers at fixed distances, an even-odd pair | [`reserve_offsets`][4], [`aligned`][5] |
//! | a number alone, until the process exits | [`Reservation::leak`] |
//! | a port that refuses every connection at once | [`reserve_port`], and start nothing |
//! | to wait until a server listens | [`wait_until_listening`] |
//! | to wait until *your* server listens | [`Reservation::wait_for`], [`wait_until_held_by`] |
//! | to wait until a server is gone | [`wait_until_free`] |
//! | a wait that does not block a tokio thread | `portlease::tokio` (feature `tokio`) |
//! | a forgotten server to fail the test | [`ReserveOptions::strict`] |
//! | a check after a server stopped | [`assert_port_free`] |
//! | a check before a suite | [`assert_ports_free`] |
//! | to check that your own server answers, not another one | [`assert_port_held_by`] |
//! | to know who has a port | [`who_holds`]; with causes and remedies, [`diagnose`] |
//! | to act on the remedies in a program | [`Diagnosis::remedies`], as values of [`Remedy`] |
//! | to read a port from text | [`str::parse`] to an [`Endpoint`], or a [`ParseEndpointError`] |
//! | to list all live reservations | [`reservations`] |
//!
//! A failed check is a [`Diagnosis`]. It prints its [headline](Diagnosis::headline), its
//! [facts](Diagnosis::facts) and its [help](Diagnosis::help). If [more](Diagnosis::more) ports
//! failed the same check, their reports follow. A diagnosis converts to an [`Error`], so `?` works
//! in a function that returns this crate's [`Result`].
//!
//! [1]: Reservation::udp_socket
//! [2]: Reservation::pass_to_fd
//! [4]: ReserveOptions::reserve_offsets
//! [5]: ReserveOptions::aligned
//!
//! # Guarantees
//!
//! The sockets of [`Reservation::listen`], [`Reservation::udp_socket`] and [`Reservation::pass_to`]
//! are bound when the call returns. From then on no other process can bind their address. This
//! holds on every system, but Windows does not support `pass_to`.
//!
//! Until a socket is bound, the reservation itself keeps the number. This guarantee has one of
//! three grades, which [`Reservation::guarantee`] returns:
//!
//! - **[`Kernel`](Guarantee::Kernel)**, for TCP on Linux. The crate holds a claim: a socket that is
//!   bound and never listens. The kernel gives the number to no `bind(…, 0)` and no outgoing
//!   connection of any process. It refuses every second claim, and every bind without the reuse
//!   options (SO_REUSEADDR, SO_REUSEPORT). The kernel keeps this promise.
//! - **[`Cooperative`](Guarantee::Cooperative)**, for UDP, for pairs of protocols, for TCP servers
//!   without SO_REUSEADDR, and on other systems. The kernel does not assign the number by itself,
//!   and no process that uses this crate takes it. The processes that share the lock folder keep
//!   this promise. On Linux all processes that use this crate in the network namespace keep the
//!   promise, even with different lock folders.
//! - **[`BestEffort`](Guarantee::BestEffort)**, instead of `Cooperative`, in three cases: an
//!   ephemeral number was requested, no number outside the kernel's ephemeral range is left, or
//!   that range is unknown. No process that uses this crate takes the number, but the kernel may
//!   assign it to another socket.
//!
//! In every grade, a process that binds the reserved number with SO_REUSEADDR can take the number
//! before your server listens. A `Cooperative` or `BestEffort` number usually has no claim. Any
//! bind of such a number can take it.
//!
//! A server that sets neither SO_REUSEADDR nor SO_REUSEPORT cannot bind a `Kernel` number. Reserve
//! with [`reuse_addr(false)`](ReserveOptions::reuse_addr) for such a server.
//!
//! The page [`docs::guarantees`] has every promise with the tests that attack it, what is not
//! promised, how long calls retry, and what happens if the process dies. The page
//! [`docs::how_it_works`] explains the mechanism.
//!
//! # Test isolation
//!
//! Reservations exclude each other among threads, processes, users and containers that share a
//! network namespace. Exception: on Windows each user has a separate lock folder by default, so
//! reservations of two users do not exclude each other. Processes with different values of
//! `PORTLEASE_DIR` do not see each other's leases. Tests need no common set-up, and run in parallel
//! under `cargo test` and `cargo nextest run`.
//!
//! Another crate that tries number after number with SO_REUSEADDR can take a reserved number before
//! your server listens. This crate keeps only ports apart. Tests that share, for example, a
//! database need another tool too.
//!
//! If the process dies, the kernel releases its ports, and nothing has to be cleaned up. Exception:
//! a forked child keeps the ports until it calls exec or exits. A panic drops the reservation, and
//! so releases the port too. With `PORTLEASE_ON_LEAK=panic` or
//! [`ReserveOptions::strict`], a test that leaves a server running fails.
//!
//! # Runtime compatibility
//!
//! A reservation needs no runtime, and can be made, sent and dropped on any thread and in any task.
//! The waits and [`Reservation::spawn`] block the calling thread. If the server is a task of a
//! current-thread runtime, the server cannot run while that thread is blocked. The feature `tokio`
//! has waits, listeners and servers that do not block. On other runtimes call the blocking
//! functions on a thread of their own, for example with `smol::unblock`. [`Reservation::listen`]
//! returns a `std::net::TcpListener` in blocking mode.
//!
//! # When not to use this crate
//!
//! - The server can bind port 0 and report its number: read the number from the server. Nothing is
//!   simpler, as long as the number need not be known beforehand or survive a restart.
//! - The server writes its number to a file (a port file): read the file.
//! - The server runs in a container: let Docker or testcontainers choose the number.
//! - The server takes an inherited socket (`listenfd`, systemd's socket activation): bind port 0
//!   and pass the socket. [`Reservation::pass_to`] also passes a socket, and keeps the number
//!   afterwards.
//! - Each test runs in a network namespace or container of its own: fixed numbers do no harm there.
//!
//! # Platforms
//!
//! | | reserve | check, assert | who holds it |
//! |---|---|---|---|
//! | Linux | kernel's guarantee for TCP | yes | yes: sock_diag(7), `/proc` |
//! | Windows | cooperative | yes | yes: `GetExtendedTcpTable`, `GetExtendedUdpTable` |
//! | macOS | cooperative; compiled, never run | yes | own processes; as root all |
//! | FreeBSD, others | cooperative; compiled, never run | yes, without names | [`Unsupported`][3] |
//!
//! The page [`docs::platforms`] lists what was run on which system and how, and the differences.
//!
//! On Windows the crate's sockets set SO_EXCLUSIVEADDRUSE. A number is free if a server that sets
//! this option could bind it. A number in an excluded range counts as in use (Hyper-V and WinNAT
//! exclude such ranges).
//!
//! [3]: ErrorKind::Unsupported
//!
//! # Environment variables
//!
//! - `PORTLEASE_DIR`: the lock folder, an absolute path. A process that has opened the folder keeps
//!   it, even if the variable changes. Processes that must exclude each other need the same value.
//! - `PORTLEASE_RANGE`: `LOW-HIGH`, for machines whose firewall allows only some ports. Every
//!   automatic pick comes from this range, and from [`ReserveOptions::range`] if that is set too.
//!   Exact numbers of [`ReserveOptions::port`] and [`ReserveOptions::ports`] are exempt. Several
//!   ports at fixed distances from an exact number, such as a block, are not exempt.
//! - `PORTLEASE_ON_LEAK`: `warn` or `panic`: what happens if a reservation is dropped while a
//!   server of this process or of a descendant listens on its port. See [`ReserveOptions::strict`].
//! - `PORTLEASE_PROJECT`: a text that identifies the project for [`ReserveOptions::named`], instead
//!   of the project's folder.
//!
//! # Features
//!
//! No feature is on by default. The feature `tokio` has the module `portlease::tokio`, and the
//! methods `Reservation::listen_tokio`, `udp_socket_tokio` and `spawn_tokio`. This feature adds the
//! dependency tokio with `net`, `process`, `rt` and `time`. Without the feature the dependencies
//! are socket2, once_cell, parking_lot, tempfile and fastrand, on Unix also libc and rustix, and on
//! Windows also windows-sys. The command `portlease` is a package of its own, `portlease-cli`.
//!
//! # More pages
//!
//! These are modules of the rendered documentation, and files in the folder `docs`:
//!
//! - [`docs::guarantees`]: each promise, who keeps it, and the test that attacks it.
//! - [`docs::how_it_works`]: the claim, the lease, which numbers, the lock folder.
//! - [`docs::platforms`]: what was run where, and the differences between systems.
//! - [`docs::command`]: the command `portlease`, its exit codes and its JSON.
//! - [`docs::integrations`]: tokio, rstest, nextest, pytest, node, GitHub Actions, Docker.
//! - [`docs::migration`]: what to call instead of portpicker, port_check, get-port, openport,
//!   reserve-port and `serial_test`.
//! - [`docs::performance`]: how often a port was lost to another process, and the time per call,
//!   compared with other crates and tools.
//!
//! # Minimum Rust version
//!
//! 1.89, for `File::try_lock`. A new minor version may need a later Rust version that is at least
//! six months old. A patch version never needs a later Rust version.
//!
//! # Related crates
//!
//! `portpicker` finds a number that is free now and reserves nothing, in a tenth of the code.
//! `openport` and `reserve-port` keep numbers apart within one process. `port_check` reports
//! whether a port is free now. `listeners` and `netstat2` list listening sockets on more systems
//! than this crate. `serial_test` runs whole tests one after the other, for tests that share more
//! than a port.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![allow(
    clippy::test_attr_in_doctest,
    reason = "the page shows a whole test; examples/suites runs a copy"
)]

mod acquire;
mod check;
mod claim;
#[cfg(all(doc, not(doctest)))]
pub mod docs;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod inspect;
#[cfg_attr(windows, path = "kept_fd/windows.rs")]
mod kept_fd;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod kept_setting;
mod lease;
mod link_local;
mod localhost;
mod model;
mod namespace;
mod os_error;
mod ownership;
mod pass_fd;
mod ports;
mod printable;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod proc_fs;
mod process_id;
mod reservation;
mod reserve;
mod residual;
mod retry;
mod server;
mod shell_word;
mod sockets;
#[cfg(feature = "tokio")]
pub mod tokio;
mod wait;

pub use check::{
    assert_no_leaked_listeners, assert_port_free, assert_port_free_for, assert_port_held_by,
    assert_port_listening, assert_ports_free, check_each_port_free_for, check_each_port_held_by,
    check_each_port_listening, check_no_leaked_listeners, check_port_free, check_port_free_for,
    check_port_held_by, check_port_listening, check_ports_free, is_port_free,
};
pub use inspect::diagnose::diagnose;
pub use inspect::probe::{Blocker, Reachability, probe, probe_listener};
pub use inspect::who::{listeners, who_holds, who_holds_each};
pub use model::diagnosis::Diagnosis;
pub use model::endpoint::{Endpoint, ParseEndpointError, Protocol};
pub use model::ephemeral_usage::EphemeralUsage;
pub use model::error::{Error, Result};
pub use model::error_kind::ErrorKind;
pub use model::holder::{Holder, Owner};
pub use model::holders::Holders;
pub use model::lease_info::Lease;
pub use model::listeners::Listeners;
pub use model::process::{ContainerManager, Process, ProcessState, Relation};
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
pub use server::Server;
pub use wait::{
    wait_until_all_held_by, wait_until_all_listening, wait_until_free, wait_until_free_for,
    wait_until_held_by, wait_until_listening,
};
