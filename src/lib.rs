//! Reserves ports that stay free for the test that asked, asserts that a port is free, and reports
//! who holds it when it is not.
//!
//! ```
//! use std::net::{TcpListener, TcpStream};
//!
//! let p = portlease::reserve_port(); // a TCP port that is reserved for this test
//! let server = TcpListener::bind(("127.0.0.1", p.port()))?; // the server under test
//! let client = TcpStream::connect(p.addr())?;
//! drop((server, client));
//! let server = TcpListener::bind(("127.0.0.1", p.port()))?; // started again on the same number
//! drop(server);
//! portlease::assert_port_free(&p); // if the server still runs, this names its process
//! # Ok::<(), std::io::Error>(())
//! ```
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
//! | an exact number, a range, a block, a queue for a fixed number | [`ReserveOptions`] |
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
//! | to list what is reserved on this machine | [`reservations`] |
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
//! A number for which you have no such socket is promised in one of three grades.
//! [`Reservation::guarantee`] returns the grade:
//!
//! - **[`Kernel`](Guarantee::Kernel)**, for TCP on Linux. The crate holds a claim: a socket that is
//!   bound and never listens. The kernel gives the number to no `bind(…, 0)` and no outgoing
//!   connection of any process. It refuses every second claim, and every bind without the reuse
//!   options (SO_REUSEADDR, SO_REUSEPORT). The kernel keeps this promise.
//! - **[`Cooperative`](Guarantee::Cooperative)**, for UDP, for pairs of protocols and for TCP
//!   servers without SO_REUSEADDR. On other systems TCP ports have this grade too. The kernel does
//!   not assign the number by itself, and no process that uses this crate takes it. The processes
//!   that share the lock folder keep this promise, by a locked file for each port (the lease). On
//!   Linux an abstract socket name extends the promise to all processes of the network namespace
//!   that use this crate, also those with another lock folder.
//! - **[`BestEffort`](Guarantee::BestEffort)**, if the kernel's ephemeral range leaves no other
//!   number, or an ephemeral number was requested. No process that uses this crate takes it, but
//!   the kernel may assign it to another socket. The processes that keep the promise are those of
//!   `Cooperative`.
//!
//! Automatic TCP reservations of the grade `Kernel` take numbers of the ephemeral range
//! (`ip_local_port_range`), because the kernel chooses such a number fastest. If the range has
//! fewer than 512 numbers, or about half of it is in use, outgoing connections need its numbers.
//! Then numbers outside the range come first, and random ephemeral numbers last. The crate always
//! leaves a few of those free for outgoing connections: one in 256, at least 2 and at most 16.
//!
//! The numbers of the grade `Cooperative` lie outside the ephemeral range. Those of IANA's dynamic
//! range (RFC 6335) come first, then the registered ones that no common service uses. A machine
//! whose ephemeral range is 1024–65535 has no such numbers. On such a machine, under the load of
//! `tests/stress`, 14 of 28,787 rounds with UDP servers were lost, 17 of 37,464 with servers
//! without SO_REUSEADDR, and 6 of 8,551 with pairs. Of the 33,957 rounds with TCP servers, whose
//! numbers the kernel keeps, none was lost.
//!
//! What is *not* promised, in any grade:
//!
//! - That the kernel refuses a stranger that binds this very number with SO_REUSEADDR before your
//!   server listens. The bind of your server is of the same kind, so the kernel cannot distinguish
//!   the two. A program that sets SO_REUSEADDR and tries number after number can take the number.
//! - That a server which sets neither SO_REUSEADDR nor SO_REUSEPORT can bind the number. Such
//!   servers are Python's bare `socketserver.TCPServer`, Erlang's `gen_tcp` with its defaults, and
//!   Java after `setReuseAddress(false)`. A server that sets SO_REUSEPORT alone and runs as another
//!   user cannot bind it either. All these servers get `EADDRINUSE`. Reserve with
//!   [`reuse_addr(false)`](ReserveOptions::reuse_addr) for them.
//! - Protection from a process of root that sets `TCP_REPAIR`.
//!
//! # Races
//!
//! **Picked, closed, bound later.** This is what `bind(…, 0)` and every port picker does:
//!
//! 1. Your test binds port 0, is given 41023, and closes the socket.
//! 2. Another process connects to some server, and the kernel gives it 41023 as its source port. Or
//!    another test is given 41023.
//! 3. Your server binds 41023: "address already in use". Or the other test's server answers your
//!    client.
//!
//! This crate does not close the socket in step 1. The socket stays bound, so the kernel gives the
//! number to no other process in step 2. The crate sets SO_REUSEADDR *after* the socket's bind, so
//! your server's bind in step 3 succeeds. You need not release the reservation first.
//!
//! **Stopped and started again.** Between the stop and the start, any process can take a number
//! that is not reserved. A connection in TIME_WAIT may also block it for a minute. A reservation
//! stays in force beside the server, however often you start, stop or kill the server.
//!
//! **The self-connection.** A client that retries on an ephemeral number where nothing listens can
//! be given that number as its own source port. The client is then connected to itself. On a
//! reserved number the kernel refuses the connection at once, every time.
//!
//! **Dropped too early.** `reserve_port().port()` drops the reservation at the end of the
//! statement, and so does `let _ = reserve_port();`. Bind the reservation to a name, or
//! [`leak`](Reservation::leak) it.
//!
//! **Released a moment ago.** A forked child has a copy of every socket of its parent until it
//! calls exec, so a port that was just released can still be in use. The calls retry. One public
//! call has one retry budget, in wall-clock time. The limit of 2 s counts from the first refusal.
//! The limit of 100 ms counts from the first check that shows no owner:
//!
//! | what still holds the port | the call retries for | then |
//! |---|---|---|
//! | a process that is visible and has called exec | 0 | it reports the process |
//! | no visible owner | 100 ms | it reports what is visible |
//! | a forked child that has not called exec | 2 s | it reports the child |
//!
//! Nothing renews the budget, not even a child that never calls exec or an owner that stays
//! invisible. A forked child that is older than 2 s counts as a process that has called exec. The
//! last check and the report take additional time, so the worst cases are:
//!
//! - A call that requests an exact number ([`ReserveOptions::port`]) and is refused returns within
//!   150 ms. It returns within 2.5 s while a forked child that has not called exec holds the
//!   number.
//! - [`is_port_free`], [`assert_port_free`] and the other checks for a free port retry for 100 ms,
//!   or for 2 s while a forked child holds a port. All ports of one call share the budget.
//! - [`Reservation::listen`] and [`Reservation::udp_socket`] retry for 100 ms, whichever owner
//!   holds the port.
//! - [`ReserveOptions::wait`] and the waits replace the budget by the caller's limit.
//!
//! # If the process dies
//!
//! However the process dies, the kernel releases the claim and the lock at once, and you have
//! nothing to clean up. The exception is a forked child that never calls exec, such as a daemon or
//! a worker process. The child shares the claim and the lock, and keeps the port until it exits.
//! Reports then name the child. A child that calls exec inherits neither the claim nor the lock.
//!
//! A lock file of 2 KiB stays, which no process has locked. A later process uses the file again or
//! deletes it. A test that panics releases its reservations as it unwinds.
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
//! `PLATFORMS.md` in the repository lists what was run on which system, and what was run under qemu
//! or wine.
//!
//! On Windows and macOS a reserved number lies outside the range that the system assigns from, and
//! has a lease. `netsh` or sysctl(8) reports that range, and each process asks for it once. As on
//! every system, [`Reservation::listen`] and [`Reservation::udp_socket`] return a socket that is
//! already bound.
//!
//! On Windows the crate's sockets set SO_EXCLUSIVEADDRUSE. A number is free if a server that sets
//! this option could bind it. A number in an excluded range counts as in use (Hyper-V and WinNAT
//! exclude such ranges).
//!
//! On Linux the first reservation of a process binds a few sockets to test whether the kernel keeps
//! the promise of a claim. The grade follows from this test, not from a version number. A network
//! namespace is a scope of its own: processes in two namespaces do not see or block each other's
//! numbers. Two containers can share a network namespace but not the lock folder. Such containers
//! do not see each other's leases. The kernel still keeps their claims apart. An abstract Unix
//! socket name (unix(7)) keeps apart the numbers for which they have no claim.
//!
//! [3]: ErrorKind::Unsupported
//!
//! # The lock folder
//!
//! On Windows it is `portlease` in the user's own temporary directory, so leases exclude each other
//! within one user. On Linux it is `/dev/shm/portlease`, in memory, if `/dev/shm` is a tmpfs(5) of
//! at least 1 GiB that every user can write to. Otherwise, and elsewhere, it is `/tmp/portlease`.
//! The path does not depend on `TMPDIR`, which differs between processes that must exclude each
//! other. The folder is sticky and writable for all, like `/tmp` itself. systemd-logind deletes the
//! files of a user in `/dev/shm` when that user's last session ends (`RemoveIPC=` in
//! logind.conf(5)). A process that still runs keeps its ports, by its claims and the abstract
//! socket names, but [`reservations`] no longer lists them.
//!
//! Leases of different users exclude each other. A user can read the records of other users, but
//! cannot change them. The user that made the folder can delete files in it. Another user can lock
//! your lock files. This is a denial of service which that user can also cause by binding the port.
//!
//! The name of a lock file holds the port. Its record holds process ids with their start times, pid
//! namespace, program path, working directory, test name, source line, label, stable name, the text
//! of [`ReserveOptions::command`], the claim's inode and the time. It never holds the environment
//! or the command line of the process.
//!
//! If the folder cannot be used, a reservation with the kernel's guarantee succeeds without a
//! record. Any other reservation fails. If `PORTLEASE_DIR` is not an absolute path, every
//! reservation fails.
//!
//! # Environment variables
//!
//! - `PORTLEASE_DIR`: the lock folder, an absolute path. A process that has opened the folder keeps
//!   it, even if the variable changes. Processes that must exclude each other need the same value.
//! - `PORTLEASE_RANGE`: `LOW-HIGH`, for machines whose firewall allows only some ports. Every
//!   automatic pick comes from this range. It narrows [`ReserveOptions::range`], and does not apply
//!   to the exact numbers of [`ReserveOptions::port`] and [`ReserveOptions::ports`].
//! - `PORTLEASE_ON_LEAK`: what to do if a server of this process or of a descendant still runs when
//!   its reservation is dropped, `warn` or `panic`. See [`ReserveOptions::strict`].
//! - `PORTLEASE_PROJECT`: a text that identifies the project for [`ReserveOptions::named`], instead
//!   of the project's folder.
//!
//! # Features
//!
//! No feature is on by default. The feature `tokio` has the module `portlease::tokio`, with waits
//! for tests on a tokio runtime, and the methods `Reservation::listen_tokio` and
//! `udp_socket_tokio`. The feature adds tokio with `net`, `process`, `rt` and `time`. Without it
//! the dependencies are socket2, once_cell, parking_lot, tempfile, fastrand, rustix on Unix, libc
//! on macOS and windows-sys on Windows. The command `portlease` is a package of its own,
//! `portlease-cli`.
//!
//! # More pages
//!
//! - `portlease::migration`: what to call instead of portpicker, port_check, get-port, openport,
//!   reserve-port and `serial_test`.
//! - `portlease::suites`: tokio, rstest, nextest, pytest, node, GitHub Actions, Docker.
//!
//! # Minimum Rust version
//!
//! 1.89, for `File::try_lock`.
//!
//! # Related crates
//!
//! `portpicker` finds a number that is free now and reserves nothing, in a tenth of the code.
//! `openport` and `reserve-port` keep numbers apart within one process. `port_check` reports
//! whether a port is free now. `listeners` and `netstat2` list listening sockets on more systems
//! than this crate. `serial_test` runs whole tests one after the other, for tests that share more
//! than a port.

mod acquire;
mod check;
mod claim;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod inspect;
#[cfg(unix)]
mod kept_fd;
mod lease;
mod link_local;
#[cfg(all(doc, not(doctest)))]
#[doc = include_str!("../docs/migration.md")]
pub mod migration {}
mod model;
mod namespace;
mod os_error;
mod ownership;
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
pub use inspect::who::{listeners, who_holds};
pub use model::diagnosis::Diagnosis;
pub use model::endpoint::{Endpoint, ParseEndpointError, Protocol};
pub use model::ephemeral_usage::EphemeralUsage;
pub use model::error::{Error, Result};
pub use model::error_kind::ErrorKind;
pub use model::holder::{Holder, Owner};
pub use model::holders::Holders;
pub use model::lease_info::Lease;
pub use model::listeners::Listeners;
pub use model::process::{Process, ProcessState, Relation};
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
    wait_until_all_listening, wait_until_free, wait_until_free_for, wait_until_held_by,
    wait_until_listening,
};
