//! [`Server`]: a program that listens on a reserved port, for tests on a tokio runtime.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use ::tokio::process::{Child, Command};
use ::tokio::time::sleep;

use super::{freeing, listening, run_blocking};
use crate::inspect::expected::Expected;
use crate::model::error::{Error, Result};
use crate::model::server_kind::ServerKind;
use crate::model::to_endpoint::listening_ports_of;
use crate::ownership::Asker;
use crate::pass_fd::passes;
use crate::reservation::Reservation;
use crate::retry::RELEASE_LIMIT;
use crate::server::{ChildProcess, Pipe, Running, Signal, is_full, others_run, prepare};
use crate::wait::Freeing;

impl ChildProcess for Child {
    fn pid(&self) -> Option<u32> {
        self.id()
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        Child::try_wait(self)
    }

    fn start_kill(&mut self) -> io::Result<()> {
        Child::start_kill(self)
    }

    fn full_pipe(&self) -> Option<&'static str> {
        match (&self.stdout, &self.stderr) {
            (Some(pipe), _) if is_full(pipe) => Some("stdout"),
            (_, Some(pipe)) if is_full(pipe) => Some("stderr"),
            _ => None,
        }
    }

    fn take_stderr(&mut self) -> Option<Pipe> {
        let stderr = self.stderr.take()?;
        #[cfg(unix)]
        return stderr.into_owned_fd().ok();
        #[cfg(windows)]
        return stderr.into_owned_handle().ok();
    }
}

impl Reservation {
    /// Does what [`spawn`](Reservation::spawn) does, without blocking the thread (feature `tokio`).
    /// The command is a `Command` of tokio or of the standard library.
    ///
    /// If the future is dropped, the program and the reservation end. A program that reads from the
    /// terminal or configures it needs `command.stdin(Stdio::null())`, as for
    /// [`spawn`](Reservation::spawn).
    ///
    /// ```no_run
    /// # async fn run() -> portlease::Result<()> {
    /// use std::time::Duration;
    ///
    /// let p = portlease::reserve_port();
    /// let mut command = tokio::process::Command::new("redis-server");
    /// command.args(["--port", &p.to_string()]);
    /// let mut redis = p.spawn_tokio(command, Duration::from_secs(30)).await?;
    /// redis.restart().await?; // on the same number
    /// let p = redis.stop().await?;
    /// # drop(p);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`spawn`](Reservation::spawn).
    ///
    /// # Panics
    ///
    /// tokio panics outside of a runtime, and in a runtime without its timer or I/O driver.
    pub async fn spawn_tokio(
        self,
        command: impl Into<Command>,
        at_most: Duration,
    ) -> Result<Server> {
        let mut command = command.into();
        let running = start(&mut command)?;
        let mut server = Server {
            running,
            reservation: self,
            command,
            at_most,
        };
        server.wait_until_listening().await?;
        Ok(server)
    }
}

/// A program that listens on a reserved port. [`Reservation::spawn_tokio`] starts it. The methods
/// do what those of [`portlease::Server`](crate::Server) do, without blocking the thread.
///
/// Dropping the value kills the program and every process of its process group (SIGKILL), and then
/// ends the reservation. The drop blocks the thread until these processes end, for at most 2 s.
/// [`portlease::Server`](crate::Server) says what differs between systems.
#[must_use = "a server is killed when it is dropped: keep it in a variable"]
pub struct Server {
    // The fields are in drop order, as in `portlease::Server`.
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

    /// The process of the program. After a [`restart`](Server::restart) it is another process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.running.child
    }

    /// The pid of the program, also after it has ended.
    pub fn id(&self) -> u32 {
        self.running.pid()
    }

    /// Ends the program, waits until the port is free, and starts the same command again, as
    /// [`portlease::Server::restart`](crate::Server::restart) does.
    ///
    /// # Errors
    ///
    /// The errors of [`portlease::Server::restart`](crate::Server::restart).
    pub async fn restart(&mut self) -> Result<()> {
        if passes(self.command.as_std(), &self.reservation) {
            return Err(Error::cannot_restart(&self.reservation.operand()));
        }
        self.end(Signal::Terminate).await?;
        let kind = self.reservation.server_kind();
        wait_until_free(&self.reservation, kind, self.at_most).await?;
        self.running = start(&mut self.command)?;
        self.wait_until_listening().await
    }

    /// Kills the program and its process group, as
    /// [`portlease::Server::kill`](crate::Server::kill) does. The reservation stays in force.
    ///
    /// # Errors
    ///
    /// The errors of [`portlease::Server::kill`](crate::Server::kill).
    pub async fn kill(&mut self) -> Result<()> {
        self.end(Signal::Kill).await
    }

    /// Ends the program and its process group, and hands the reservation back, as
    /// [`portlease::Server::stop`](crate::Server::stop) does.
    ///
    /// # Errors
    ///
    /// The errors of [`portlease::Server::stop`](crate::Server::stop).
    pub async fn stop(mut self) -> Result<Reservation> {
        self.end(Signal::Terminate).await?;
        drop(self.command);
        wait_until_free(&self.reservation, ServerKind::ReuseAddr, RELEASE_LIMIT).await?;
        Ok(self.reservation)
    }

    async fn end(&mut self, signal: Signal) -> Result<()> {
        let mut ending = self.running.begin_end(signal)?;
        loop {
            // On Linux `others_run` reads every process in `/proc`, so it runs on a thread for
            // blocking work.
            let pid = self.running.pid();
            let others = match self.running.has_ended()? {
                true => run_blocking(move || others_run(pid)).await,
                // The child still ran, so the group was not searched. If the child ends before
                // `poll_end` checks it again, `true` makes `poll_end` return a pause. The next
                // round then searches the group.
                false => true,
            };
            match self.running.poll_end(&mut ending, |_| others)? {
                Some(pause) => sleep(pause).await,
                None => return Ok(()),
            }
        }
    }

    /// Waits until the program listens. If the wait fails, kills the program, because it has not
    /// become a server.
    async fn wait_until_listening(&mut self) -> Result<()> {
        let expected = Expected::new(self.running.pid());
        let ports = listening_ports_of(&&self.reservation)?;
        let exit_info = || self.running.exit_info();
        match listening(ports, Some(expected), self.at_most, exit_info).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // The error of the wait says more than a failure to end the program.
                let _ended = self.end(Signal::Kill).await;
                Err(self.running.explain(error))
            }
        }
    }
}

async fn wait_until_free(
    reservation: &Reservation,
    kind: ServerKind,
    at_most: Duration,
) -> Result<()> {
    let asker = Asker::of(&reservation);
    freeing(Freeing::new(
        reservation.ports().collect(),
        kind,
        asker,
        at_most,
    ))
    .await
}

fn start(command: &mut Command) -> Result<Running<Child>> {
    prepare(command.as_std_mut());
    match command.spawn() {
        Ok(child) => Ok(Running::new(child)),
        Err(cause) => Err(Error::cannot_start(command.as_std().get_program(), cause)),
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
