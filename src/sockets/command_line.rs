//! Reads the command line of a process.

use std::ffi::OsString;

use super::system;
use crate::model::error::{Error, Result};
use crate::model::process::Process;

impl Process {
    /// Reads the command line now. Reports omit command lines unless the caller requests them,
    /// because a command line can contain secrets.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let holders = portlease::who_holds(&p)?;
    /// let process = &holders.iter().next().unwrap().processes[0];
    /// println!("{:?}", process.command_line()?);
    /// # drop(server);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The call fails if this user may not read the command line. It also fails if the process has
    /// ended, even if another process now has its pid. Exception: for a
    /// [zombie](crate::ProcessState::Zombie) the result is empty.
    ///
    /// # Platform-specific behavior
    ///
    /// Linux reads `/proc/PID/cmdline`. Other systems return
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    pub fn command_line(&self) -> Result<Vec<OsString>> {
        match system::command_line(self.pid, self.ticks) {
            Ok(arguments) => Ok(arguments),
            Err(cause) => Err(Error::command_line(self.pid, cause)),
        }
    }
}
