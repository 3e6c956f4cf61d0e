//! Programs of other projects: finds, starts and stops them as a person would.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{DEADLINE, Folder, eventually};

/// The path of a program. Also searches the folders of daemons and of Debian's PostgreSQL.
pub(crate) fn path_of(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let postgres = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let postgres = postgres.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    folders
        .chain(postgres)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

pub(crate) fn installed(program: &str) -> Result<(), String> {
    match path_of(program) {
        Some(_) => Ok(()),
        None => Err(format!("{program} is not installed")),
    }
}

pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(path_of(program).unwrap_or_else(|| program.into()));
    command.args(args);
    command
}

/// The Python interpreter with the packages that the tests need.
pub(crate) fn python() -> String {
    std::env::var("PORTLEASE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

pub(crate) fn python_has(module: &str) -> Result<(), String> {
    let import = Command::new(python())
        .args(["-c", &format!("import {module}")])
        .output();
    match import {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(format!("{} does not import {module}", python())),
    }
}

/// A running program. Dropping the value stops the program.
pub(crate) struct Program {
    pub(crate) process: Child,
    log: PathBuf,
    _folder: Option<Folder>,
}

impl Program {
    /// Starts a program that logs into `folder`. The returned value keeps the folder.
    ///
    /// Takes the command by value: until it is dropped, this process too has the sockets open that
    /// the command passes.
    pub(crate) fn start(command: Command, folder: Folder) -> Program {
        let log = folder.path().join("log");
        Program::spawn(command, log, Some(folder))
    }

    /// Starts a program that runs and logs in `folder`.
    pub(crate) fn start_in(mut command: Command, folder: &Path) -> Program {
        command.current_dir(folder);
        Program::spawn(command, folder.join("log"), None)
    }

    fn spawn(mut command: Command, log: PathBuf, folder: Option<Folder>) -> Program {
        let output = File::create(&log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        Program {
            process: command.spawn().unwrap(),
            log,
            _folder: folder,
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Calls `request` until it succeeds. Panics when the program ends first.
    pub(crate) fn answers<T>(&mut self, mut request: impl FnMut() -> std::io::Result<T>) -> T {
        eventually("an answer", DEADLINE, || {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("the program ended ({status}):\n{}", self.log());
            }
            request().map_err(|e| format!("{e}\n{}", self.log()))
        })
    }

    /// Waits until the program ends by itself. Returns its exit status and its log.
    pub(crate) fn ends(mut self) -> (ExitStatus, String) {
        let status = eventually("the program ends", DEADLINE, || {
            match self.process.try_wait() {
                Ok(Some(status)) => Ok(status),
                other => Err(format!("{other:?}")),
            }
        });
        (status, self.log())
    }

    /// Sends SIGTERM, waits, and returns whether the program ended. SIGKILL would leave the workers
    /// of a server running.
    pub(crate) fn stop(&mut self) -> bool {
        const GRACE: Duration = Duration::from_secs(10);
        if self.process.try_wait().is_ok_and(|status| status.is_some()) {
            return true;
        }
        let sent = Command::new("kill")
            .args(["-TERM", &self.process.id().to_string()])
            .status();
        let until = Instant::now() + GRACE;
        while sent.as_ref().is_ok_and(ExitStatus::success) && Instant::now() < until {
            if self.process.try_wait().is_ok_and(|status| status.is_some()) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.stop() {
            // The program may be gone already.
            let _gone = self.process.kill();
            let _reaped = self.process.wait();
        }
    }
}
