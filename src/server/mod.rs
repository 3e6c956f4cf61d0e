//! [`Server`]: a program that listens on a reserved port.

use std::fmt;
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::Duration;

use crate::inspect::expected::Expected;
use crate::model::error::{Error, Result};
use crate::model::server_kind::ServerKind;
use crate::model::to_endpoint::listening_ports_of;
use crate::ownership::Asker;
use crate::pass_fd::passes;
use crate::reservation::Reservation;
use crate::retry::RELEASE_LIMIT;
use crate::wait::{Freeing, Listening, block_on};

mod running;
mod system;

#[cfg(feature = "tokio")]
pub(crate) use running::ChildProcess;
pub(crate) use running::Running;
#[cfg(feature = "tokio")]
pub(crate) use system::{Pipe, is_full, others_run};
pub(crate) use system::{Signal, prepare};

impl Reservation {
    /// Starts `command`, and waits for at most `at_most` until the program, or a process that it
    /// started, listens on [`addr`](Reservation::addr). `command` must pass the program the port
    /// number (in an argument or an environment variable) or a socket (with
    /// [`pass_to`](Reservation::pass_to)). The returned [`Server`] holds the reservation.
    ///
    /// The wait accepts the same listeners as [`wait_for`](Reservation::wait_for). A socket from
    /// [`pass_to`](Reservation::pass_to) listens already. The call then returns as soon as the
    /// program has inherited the socket, even if the program does not use the socket.
    ///
    /// On Unix the program leads a process group of its own, so the terminal's Ctrl-C does not
    /// reach it. The terminal treats the program as a background job: it suspends the program if
    /// the program reads from the terminal or configures it. Such a program needs
    /// `command.stdin(Stdio::null())`. A `pre_exec` hook that calls setsid(2) fails, because the
    /// kernel refuses setsid to the leader of a process group.
    ///
    /// If the calling process is killed, the program usually runs on. A later check of the port
    /// then names the program.
    ///
    /// ```no_run
    /// use std::process::Command;
    /// use std::time::Duration;
    ///
    /// let p = portlease::reserve_port();
    /// let mut command = Command::new("redis-server");
    /// command.args(["--port", &p.to_string()]);
    /// let mut redis = p.spawn(command, Duration::from_secs(30))?;
    /// let client = std::net::TcpStream::connect(redis.addr())?;
    /// redis.restart()?; // on the same number
    /// # drop(client);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the call fails, it ends the program, its process group and the reservation. A process
    /// that left the group, such as a daemon, runs on.
    ///
    /// - The errors of [`wait_for`](Reservation::wait_for): for example
    ///   [`Io`](crate::ErrorKind::Io) with the exit status if the program ends first, and
    ///   [`TimedOut`](crate::ErrorKind::TimedOut) with a diagnosis. If the command's stderr is
    ///   piped, the message ends with the last lines that the program wrote there.
    /// - The error of the system if the program cannot be started.
    ///
    /// The call does not read a piped stdout or stderr while it waits. A pipe of Linux holds 64 KiB
    /// by default. If the program writes more than that before it listens, the write blocks, and
    /// the call times out. On Linux the error then names the full pipe.
    pub fn spawn(self, mut command: Command, at_most: Duration) -> Result<Server> {
        let running = start(&mut command)?;
        let mut server = Server {
            running,
            reservation: self,
            command,
            at_most,
        };
        server.wait_until_listening()?;
        Ok(server)
    }
}

/// A program that listens on a reserved port. [`Reservation::spawn`] starts it.
///
/// Dropping the value kills the program and every process of its process group (SIGKILL), and then
/// ends the reservation. The drop waits until these processes have ended, for at most 2 s. A
/// process that left the group, such as a daemon, runs on. [`stop`](Server::stop) ends the program
/// more gently, and hands the reservation back.
///
/// ```no_run
/// # use std::process::Command;
/// # use std::time::Duration;
/// let p = portlease::reserve_port();
/// let mut command = Command::new("redis-server");
/// command.args(["--port", &p.to_string()]);
/// let mut redis = p.spawn(command, Duration::from_secs(30))?;
/// portlease::assert_port_held_by(redis.reservation(), redis.id());
/// redis.kill()?; // a crash, for the client under test
/// redis.restart()?; // on the same number
/// let p = redis.stop()?;
/// portlease::assert_port_free(&p);
/// # Ok::<(), portlease::Error>(())
/// ```
///
/// # Platform-specific behavior
///
/// `kill`, `stop`, `restart` and the drop treat the other processes of the group as follows:
///
/// - On Linux with `/proc`, the methods wait until every process of the group has ended.
/// - On Linux without `/proc` and on other Unix systems, this crate does not list the processes of
///   a group. So the methods kill the group as soon as the program has ended.
/// - On Windows, the methods end only the program itself, at once. Windows has no SIGTERM, and no
///   process groups as Unix has them.
///
/// On Unix `kill`, `stop`, `restart` and the drop signal the program by its pid. If the caller has
/// reaped the program, by `child().wait()`, another process can get that pid. So the methods then
/// send no signal, and other processes of the program's group run on.
#[must_use = "a server is killed when it is dropped: keep it in a variable"]
pub struct Server {
    // The fields are in drop order. The program and the command come before the reservation, so the
    // next process that reserves the number finds it free. The command can own sockets on the port
    // (`pass_to`).
    running: Running<Child>,
    command: Command,
    reservation: Reservation,
    at_most: Duration,
}

impl Server {
    /// The number of the reserved port.
    pub fn port(&self) -> u16 {
        self.reservation.port()
    }

    /// `127.0.0.1` with the number of the reserved port.
    pub fn addr(&self) -> SocketAddr {
        self.reservation.addr()
    }

    /// The reservation, which stays in force while the program is stopped or killed.
    pub fn reservation(&self) -> &Reservation {
        &self.reservation
    }

    /// The process of the program, for example to take its stdout if that is piped. After a
    /// [`restart`](Server::restart) it is another process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.running.child
    }

    /// The pid of the program.
    pub fn id(&self) -> u32 {
        self.running.pid()
    }

    /// Ends the program as [`stop`](Server::stop) does, waits until the port is free, and starts
    /// the same command again. Returns when the new process listens. The wait for the free port and
    /// the wait for the listener each take at most as long as the `at_most` of
    /// [`spawn`](Reservation::spawn).
    ///
    /// The program may already have ended, for example by [`kill`](Server::kill). Connections that
    /// it accepted, also those in TIME_WAIT, do not block a server that sets SO_REUSEADDR.
    ///
    /// # Errors
    ///
    /// The errors of [`spawn`](Reservation::spawn), of [`stop`](Server::stop) and of
    /// [`wait_until_free_for`](crate::wait_until_free_for). The reservation stays in force, and the
    /// call can be repeated.
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the [`Command`] got sockets from
    /// [`pass_to`](Reservation::pass_to): this `Server` keeps the `Command`, and the sockets of the
    /// `Command` keep the port in use. The program then runs on. Call [`stop`](Server::stop), pass
    /// the port to a new `Command`, and spawn that.
    pub fn restart(&mut self) -> Result<()> {
        if passes(&self.command, &self.reservation) {
            return Err(Error::cannot_restart(&self.reservation.operand()));
        }
        self.running.end(Signal::Terminate)?;
        let kind = self.reservation.server_kind();
        wait_until_free(&self.reservation, kind, self.at_most)?;
        self.running = start(&mut self.command)?;
        self.wait_until_listening()
    }

    /// Kills the program and its process group (SIGKILL), and waits until they have ended, for at
    /// most 2 s. The reservation stays in force.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut) if the program does not end, for example in a
    /// system call that cannot be interrupted.
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) if this user may not signal the
    /// program, for example because it runs as another user.
    pub fn kill(&mut self) -> Result<()> {
        self.running.end(Signal::Kill)
    }

    /// Ends the program and its process group, and hands the reservation back. The call sends
    /// SIGTERM, and SIGKILL if a process still runs after 5 s. Then it waits until the port is
    /// free, for at most 2 s.
    ///
    /// # Errors
    ///
    /// The errors of [`kill`](Server::kill) and of [`wait_until_free`](crate::wait_until_free): for
    /// example [`TimedOut`](crate::ErrorKind::TimedOut) with a [diagnosis](Error::diagnosis) that
    /// names what still uses the port, such as a daemon that left the process group. If the call
    /// fails, the reservation ends.
    pub fn stop(mut self) -> Result<Reservation> {
        self.running.end(Signal::Terminate)?;
        drop(self.command);
        wait_until_free(&self.reservation, ServerKind::ReuseAddr, RELEASE_LIMIT)?;
        Ok(self.reservation)
    }

    /// Waits until the program listens. Kills the program if the wait fails.
    fn wait_until_listening(&mut self) -> Result<()> {
        let expected = Expected::new(self.running.pid());
        let ports = listening_ports_of(&&self.reservation)?;
        let mut wait = Listening::new(ports, Some(expected), self.at_most);
        let outcome = block_on(|| wait.poll(|| self.running.exit_info()));
        outcome.map_err(|error| {
            // If the kill fails too, the caller still gets the error of the wait, which says more.
            let _ended = self.running.end(Signal::Kill);
            self.running.explain(error)
        })
    }
}

fn wait_until_free(reservation: &Reservation, kind: ServerKind, at_most: Duration) -> Result<()> {
    let asker = Asker::of(&reservation);
    let mut wait = Freeing::new(reservation.ports().collect(), kind, asker, at_most);
    block_on(|| wait.poll())
}

fn start(command: &mut Command) -> Result<Running<Child>> {
    prepare(command);
    match command.spawn() {
        Ok(child) => Ok(Running::new(child)),
        Err(cause) => Err(Error::cannot_start(command.get_program(), cause)),
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("pid", &self.running.pid())
            .field("reservation", &self.reservation)
            .finish()
    }
}
