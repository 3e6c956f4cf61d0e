//! Hand-off: a socket that is bound already, inherited by a child process.

use std::process::Command;

use crate::model::error::Result;
use crate::reservation::Reservation;

impl Reservation {
    /// Passes a socket to a child, as systemd does: a listener on [`addr`](Reservation::addr) for TCP, a bound socket
    /// for UDP. There is no window at all: the port is served from now on, and whoever connects before the child is up
    /// waits in the backlog.
    ///
    /// The child finds `LISTEN_FDS`, `LISTEN_FDNAMES` (the label, or the number) and `LISTEN_PID`, its own process id,
    /// and the sockets from descriptor 3 on (sd_listen_fds(3); the `listenfd` crate reads it). Several reservations
    /// are passed to one child by several calls. No other child inherits anything.
    ///
    /// **Call it right after [`Command::new`], `args`, `env` and `current_dir`, and before all else**: since only the
    /// child knows its process id, the command is made anew, with a shell that sets `LISTEN_PID` and becomes the
    /// program. Arguments and variables may be added afterwards, and `env_clear` called. A program that does not exist
    /// shows as exit status 127 instead of an error of `spawn`. The command keeps the socket too: drop it once the
    /// child is started, or the port goes on listening when the child ends.
    ///
    /// It works for `tokio::process::Command` by its `as_std_mut`.
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
    /// [`InUse`](crate::ErrorKind::InUse) while something listens on the port;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a command that has settings which cannot be carried over
    /// (standard streams, user, process group, `env_clear`): pass first, set them then; and on systems other than
    /// Unix.
    ///
    /// # Platform-specific behavior
    ///
    /// Unix only. Hooks that were set with `pre_exec` before are lost.
    #[doc(alias = "LISTEN_FDS")]
    pub fn pass_to(&self, command: &mut Command) -> Result<()> {
        system::pass_systemd_style(self, command)
    }

    /// Passes the socket to a child as this descriptor number, for programs that take one: `uvicorn --fd 3`, `{fd: 3}`
    /// in node, `NGINX=3;` for nginx. A reservation of two protocols passes its listener.
    ///
    /// The command stays as it is. As with [`pass_to`](Reservation::pass_to), it keeps the socket too.
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
    /// [`InUse`](crate::ErrorKind::InUse) while something listens on the port; [`Io`](crate::ErrorKind::Io) for a
    /// number that no descriptor has; [`Unsupported`](crate::ErrorKind::Unsupported) on systems other than Unix.
    pub fn pass_to_fd(&self, command: &mut Command, fd: i32) -> Result<()> {
        system::pass_as(self, command, fd)
    }
}

#[cfg(unix)]
#[expect(
    unsafe_code,
    reason = "pre_exec is unsafe, and so is to name a descriptor by its number"
)]
mod system {
    use std::ffi::OsStr;
    use std::io;
    use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::sync::{Arc, Weak};

    use parking_lot::Mutex;
    use rustix::io::{FdFlags, dup2, fcntl_dupfd_cloexec, fcntl_setfd};

    use crate::model::endpoint::Protocol;
    use crate::model::error::{Error, Result};
    use crate::reservation::Reservation;

    /// The first descriptor of systemd's protocol.
    const FIRST: i32 = 3;

    /// The sockets that one command passes, with their names.
    type Passed = Vec<(Arc<OwnedFd>, String)>;

    /// What the commands made here pass, by the number in their arguments: a further call adds to it.
    static PASSED: Mutex<Vec<(u64, Weak<Passed>)>> = Mutex::new(Vec::new());

    const SHELL: &str = "/bin/sh";
    const MARK: &str = "portlease-";

    pub(super) fn pass_systemd_style(
        reservation: &Reservation,
        command: &mut Command,
    ) -> Result<()> {
        let name = name(reservation);
        let mut passed = already_passed(command)
            .map(|passed| passed.to_vec())
            .unwrap_or_default();
        let wrapped = !passed.is_empty();
        for protocol in reservation.protocols() {
            passed.push((Arc::new(socket(reservation, *protocol)?), name.clone()));
        }
        // Above the descriptors they are to have, so that none overwrites another one on its way.
        let above = FIRST + passed.len() as i32;
        for (socket, _) in &mut passed {
            *socket = Arc::new(
                fcntl_dupfd_cloexec(socket.as_fd(), above)
                    .map_err(|e| failed(reservation, e.into()))?,
            );
        }
        let own: Vec<&OsStr> = match wrapped {
            // The shell, its script and our mark.
            true => command.get_args().skip(3).collect(),
            false => std::iter::once(command.get_program())
                .chain(command.get_args())
                .collect(),
        };
        let token = fastrand::u64(..);
        let passed = Arc::new(passed);
        let mut made = Command::new(SHELL);
        made.arg("-c")
            .arg(script(&passed))
            .arg(format!("{MARK}{token}"))
            .args(own);
        carry_over(command, &mut made);
        if !carries_all(command) {
            return Err(Error::cannot_pass(&reservation.operand()));
        }
        let mut table = PASSED.lock();
        table.retain(|(_, passed)| passed.strong_count() > 0);
        table.push((token, Arc::downgrade(&passed)));
        inherit(&mut made, move || {
            for (fd, (socket, _)) in (FIRST..).zip(passed.iter()) {
                place(socket, fd)?;
            }
            Ok(())
        });
        *command = made;
        Ok(())
    }

    pub(super) fn pass_as(reservation: &Reservation, command: &mut Command, fd: i32) -> Result<()> {
        if fd < 0 {
            return Err(failed(reservation, rustix::io::Errno::BADF.into()));
        }
        let socket = socket(reservation, reservation.protocols()[0])?;
        inherit(command, move || place(&socket, fd));
        Ok(())
    }

    fn socket(reservation: &Reservation, protocol: Protocol) -> Result<OwnedFd> {
        let socket = match protocol {
            Protocol::Tcp => reservation.listen().map(OwnedFd::from),
            _ => reservation.udp_socket().map(OwnedFd::from),
        };
        socket.map_err(|e| failed(reservation, e))
    }

    fn failed(reservation: &Reservation, cause: io::Error) -> Error {
        Error::of_system("pass", &reservation.operand(), cause)
    }

    /// Names are separated by colons, and are written into the script.
    fn name(reservation: &Reservation) -> String {
        let name = reservation
            .label()
            .map_or_else(|| reservation.port().to_string(), str::to_owned);
        name.chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "._-".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect()
    }

    /// `exec` keeps the process id, so the shell's is the program's.
    fn script(passed: &Passed) -> String {
        let names: Vec<&str> = passed.iter().map(|(_, name)| name.as_str()).collect();
        let (count, names) = (passed.len(), names.join(":"));
        format!("export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}; exec \"$@\"")
    }

    fn already_passed(command: &Command) -> Option<Arc<Passed>> {
        let mark = command
            .get_args()
            .nth(2)
            .filter(|_| command.get_program() == SHELL)?;
        let token: u64 = mark.to_str()?.strip_prefix(MARK)?.parse().ok()?;
        PASSED
            .lock()
            .iter()
            .find(|(known, _)| *known == token)?
            .1
            .upgrade()
    }

    fn carry_over(from: &Command, to: &mut Command) {
        for (name, value) in from.get_envs() {
            match value {
                Some(value) => to.env(name, value),
                None => to.env_remove(name),
            };
        }
        if let Some(folder) = from.get_current_dir() {
            to.current_dir(folder);
        }
    }

    /// Whether all that a command tells of itself is what can be read from it: its `Debug` shows the rest too.
    fn carries_all(command: &Command) -> bool {
        let mut copy = Command::new(command.get_program());
        copy.args(command.get_args());
        carry_over(command, &mut copy);
        format!("{copy:#?}") == format!("{command:#?}")
    }

    fn inherit(
        command: &mut Command,
        hook: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) {
        // SAFETY: between fork and exec the hooks given to this function make system calls only: dup2(2) and fcntl(2),
        // which signal-safety(7) lists. They allocate nothing and take no lock.
        unsafe { command.pre_exec(hook) };
    }

    /// Gives the socket this number, without close-on-exec. Runs between fork and exec.
    fn place(socket: &OwnedFd, fd: i32) -> io::Result<()> {
        if socket.as_raw_fd() == fd {
            return Ok(fcntl_setfd(socket, FdFlags::empty())?);
        }
        // SAFETY: the value is forgotten below, so it never closes the descriptor. Whether the number is open, and
        // as what, does not matter to dup2(2), which replaces it in this process, a copy that is about to exec.
        let target = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut target = std::mem::ManuallyDrop::new(target);
        Ok(dup2(socket, &mut target)?)
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;
    use std::process::Command;

    use crate::model::error::{Error, Result};
    use crate::reservation::Reservation;

    pub(super) fn pass_systemd_style(
        reservation: &Reservation,
        _command: &mut Command,
    ) -> Result<()> {
        unsupported(reservation)
    }

    pub(super) fn pass_as(
        reservation: &Reservation,
        _command: &mut Command,
        _fd: i32,
    ) -> Result<()> {
        unsupported(reservation)
    }

    fn unsupported(reservation: &Reservation) -> Result<()> {
        Err(Error::of_system(
            "pass",
            &reservation.operand(),
            io::ErrorKind::Unsupported.into(),
        ))
    }
}
