//! Passes sockets: a child process inherits a socket that is already bound.

use std::process::Command;

use crate::model::error::Result;
use crate::reservation::Reservation;

#[cfg(unix)]
mod ffi;
#[cfg(unix)]
mod numbers;
#[cfg(unix)]
mod passed;
#[cfg(unix)]
mod registry;
#[cfg(unix)]
mod shell;
#[cfg(unix)]
mod unix;
#[cfg(not(unix))]
mod unsupported;

#[cfg(unix)]
use unix as system;
#[cfg(not(unix))]
use unsupported as system;

/// Returns `true` if the command owns a socket of the reservation, for its children to inherit.
pub(crate) fn passes(command: &Command, reservation: &Reservation) -> bool {
    system::passes(command, reservation)
}

impl Reservation {
    /// Passes a socket to a child process, as systemd does: a listener on
    /// [`addr`](Reservation::addr) for TCP, a bound socket for UDP. A reservation of TCP and UDP
    /// passes both.
    ///
    /// The port stays bound without a gap, first in this process and then in the child. If a TCP
    /// client connects before the child calls accept, the connection waits in the backlog.
    ///
    /// The child inherits the sockets as descriptor 3 and following, and finds the variables of
    /// sd_listen_fds(3), which the `listenfd` crate reads:
    ///
    /// | variable | value |
    /// |---|---|
    /// | `LISTEN_FDS` | the number of sockets |
    /// | `LISTEN_FDNAMES` | for each socket the label of its reservation, or the port number |
    /// | `LISTEN_PID` | the process id of the child |
    ///
    /// In `LISTEN_FDNAMES`, `_` replaces each character of a label that is not an ASCII letter, a
    /// digit, `.`, `_` or `-`.
    ///
    /// To pass several reservations to one child, call `pass_to` once for each of them. Only
    /// children of this command inherit the sockets.
    ///
    /// **Call `pass_to` after [`Command::new`], `args`, `env` and `current_dir`, and before every
    /// other setting.** Only arguments, variables and `env_clear` may also come later.
    ///
    /// Only the child knows its process id, so this call replaces the command by a shell that sets
    /// `LISTEN_PID` and then executes the program. This has consequences:
    ///
    /// - A shell may drop variables whose names are no identifiers, such as `npm-config`. A shell
    ///   assigns some other variables itself, such as `IFS`. To keep the values of both kinds of
    ///   variables, this call copies the values into the command line of env(1). `ps` shows that
    ///   line until the program is executed. Set these variables before this call, because later
    ///   changes may be lost.
    /// - The shell may update `PWD`, `OLDPWD`, `SHLVL` and `_`.
    /// - The program must be the server itself. A wrapper, such as a shell script, starts the
    ///   server as a child. `LISTEN_PID` is then the process id of the wrapper, and the server
    ///   finds no sockets. Call [`pass_to_wrapper`](Reservation::pass_to_wrapper) for a wrapper.
    /// - A program that does not exist results in exit status 127, not in an error of `spawn`.
    /// - The command owns the sockets too. Drop the command once the child has started: otherwise
    ///   the sockets still listen after the child has ended.
    ///
    /// The socket listens from this call on. So a wait for the child ends as soon as the child has
    /// inherited the socket, even if the program does not use the socket.
    /// [`spawn`](Reservation::spawn) returns at the same point.
    ///
    /// For a `tokio::process::Command` pass its `as_std_mut()`.
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use std::process::Command;
    ///
    /// let p = portlease::reserve_port();
    /// let mut child = Command::new("sh");
    /// child.args(["-c", "test $LISTEN_PID = $$ && test $LISTEN_FDS = 1"]);
    /// p.pass_to(&mut child)?;
    /// assert!(child.status()?.success());
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`InUse`](crate::ErrorKind::InUse) with a [diagnosis](crate::Error::diagnosis) while
    ///   another server has the port. The call retries as [`listen`](Reservation::listen) does.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if an earlier call passed the port to this
    ///   command.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the command has a setting that cannot be
    ///   copied to the shell, such as standard streams, user, process group or `env_clear`. Call
    ///   `pass_to` before you set these.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the child would lose a variable. The
    ///   message names the variable. env(1) cannot pass a variable:
    ///   - if the path of the program contains `=`
    ///   - if the name of the variable is empty or starts with `=`
    ///   - if `/usr/bin/env` is missing
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) after `pass_to_wrapper`.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) on systems other than Unix.
    /// - [`Io`](crate::ErrorKind::Io) if an earlier `pass_to_fd` uses a descriptor number that this
    ///   call needs, and for other errors of the system, such as too many open files.
    ///
    /// # Platform-specific behavior
    ///
    /// Unix only. Hooks that `pre_exec` set before this call are lost. Sockets from an earlier
    /// [`pass_to_fd`](Reservation::pass_to_fd) are kept.
    #[doc(alias = "LISTEN_FDS")]
    pub fn pass_to(&self, command: &mut Command) -> Result<()> {
        system::pass_systemd_style(self, command)
    }

    /// Passes a socket to a server through a wrapper (a shell script, `env`, `npm`, `strace`). The
    /// call works like [`pass_to`](Reservation::pass_to), but without `LISTEN_PID`.
    ///
    /// The child inherits the sockets as descriptor 3 and following, and finds `LISTEN_FDS` and
    /// `LISTEN_FDNAMES`. Without `LISTEN_PID`, the `listenfd` crate accepts the sockets in any
    /// process that inherits them. A server that calls sd_listen_fds(3) finds no sockets, because
    /// that function requires `LISTEN_PID`. Every program between the command and the server must
    /// leave the descriptors from 3 on open.
    ///
    /// To pass several reservations, call `pass_to_wrapper` once for each of them. The command
    /// keeps its program, arguments and settings. Unlike with `pass_to`, `spawn` returns an error
    /// for a program that does not exist. Call `env_clear` before `pass_to_wrapper`: a later
    /// `env_clear` would remove `LISTEN_FDS` and `LISTEN_FDNAMES`. As with `pass_to`, the command
    /// owns the sockets too: drop the command once the child has started.
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use std::process::Command;
    ///
    /// let p = portlease::reserve_port();
    /// let mut wrapper = Command::new("sh");
    /// let server = "test -z \"$LISTEN_PID\" && test $LISTEN_FDS = 1";
    /// wrapper.args(["-c", "sh -c \"$1\"; exit $?", "wrapper", server]);
    /// p.pass_to_wrapper(&mut wrapper)?;
    /// assert!(wrapper.status()?.success());
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`InUse`](crate::ErrorKind::InUse) with a [diagnosis](crate::Error::diagnosis) while
    ///   another server has the port. The call retries as [`listen`](Reservation::listen) does.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if an earlier call passed the port to this
    ///   command.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) after `pass_to`, and on systems other than
    ///   Unix.
    /// - [`Io`](crate::ErrorKind::Io) if an earlier `pass_to_fd` uses a descriptor number that this
    ///   call needs, and for other errors of the system, such as too many open files.
    ///
    /// `spawn` can fail as [`pass_to_fd`](Reservation::pass_to_fd) describes.
    ///
    /// # Platform-specific behavior
    ///
    /// Unix only.
    #[doc(alias = "LISTEN_FDS")]
    pub fn pass_to_wrapper(&self, command: &mut Command) -> Result<()> {
        system::pass_to_wrapper(self, command)
    }

    /// Passes a socket to a child process as descriptor `fd`, for programs that take a number:
    /// `uvicorn --fd 3`, `{fd: 3}` in node, `NGINX=3;` for nginx.
    ///
    /// A reservation of TCP and UDP passes its TCP listener. The command keeps its program and
    /// arguments. As with [`pass_to`](Reservation::pass_to), the command owns the socket too: drop
    /// the command once the child has started.
    ///
    /// If the number `fd` is free in this process, the command occupies it until the command is
    /// dropped.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")] {
    /// let p = portlease::reserve_port();
    /// let mut child = std::process::Command::new("readlink");
    /// child.arg("/proc/self/fd/7");
    /// p.pass_to_fd(&mut child, 7)?;
    /// assert!(child.output()?.stdout.starts_with(b"socket:["));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`InUse`](crate::ErrorKind::InUse) with a [diagnosis](crate::Error::diagnosis) while
    ///   another server has the port. The call retries as [`listen`](Reservation::listen) does.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if an earlier call passed the port to this
    ///   command.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) on systems other than Unix.
    /// - [`Io`](crate::ErrorKind::Io) if `fd` is negative, is not below the limit of open files
    ///   (RLIMIT_NOFILE), or is already the number of another socket of this command.
    /// - [`Io`](crate::ErrorKind::Io) for other errors of the system.
    ///
    /// `spawn` fails with EBADF if other code of this process closed the command's descriptors.
    /// `spawn` fails with EBUSY in two cases:
    ///
    /// - The number `fd` was in use in this process during this call, and has been closed since.
    ///   The number may now be the pipe through which `spawn` learns of a failed exec. A second
    ///   `spawn` can succeed.
    /// - `env_clear` was called between two calls that pass sockets as the same number.
    ///
    /// # Platform-specific behavior
    ///
    /// Unix only.
    pub fn pass_to_fd(&self, command: &mut Command, fd: i32) -> Result<()> {
        system::pass_as(self, command, fd)
    }
}
