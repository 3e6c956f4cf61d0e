//! Programs that are not this project's: found, started, and stopped as a person would.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{DEADLINE, Folder, eventually};

/// Where a program is, also where daemons and Debian's PostgreSQL are kept.
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

/// The Python that has the packages which the tests need.
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

/// A program that runs, with a folder of its own. Stopped when the value is dropped.
pub(crate) struct Program {
    pub(crate) process: Child,
    folder: Folder,
}

impl Program {
    /// The command goes with this function: it has the sockets too that it passes.
    pub(crate) fn start(mut command: Command, folder: Folder) -> Program {
        let log = File::create(folder.path().join("log")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        Program {
            process: command.spawn().unwrap(),
            folder,
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Tries until it answers; fails at once when it has ended.
    pub(crate) fn answers<T>(&mut self, mut ask: impl FnMut() -> std::io::Result<T>) -> T {
        eventually("an answer", DEADLINE, || {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("it ended ({status}):\n{}", self.log());
            }
            ask().map_err(|e| format!("{e}\n{}", self.log()))
        })
    }

    /// Its exit status and its log, of one that ends by itself.
    pub(crate) fn ends(mut self) -> (ExitStatus, String) {
        let status = eventually("the program ends", DEADLINE, || {
            match self.process.try_wait() {
                Ok(Some(status)) => Ok(status),
                other => Err(format!("{other:?}")),
            }
        });
        (status, self.log())
    }

    /// A signal, and the time it takes: killed at once, a server with workers leaves them behind. Whether it ended.
    pub(crate) fn stop(&mut self) -> bool {
        const GRACE: Duration = Duration::from_secs(10);
        if self.process.try_wait().is_ok_and(|status| status.is_some()) {
            return true;
        }
        let told = Command::new("kill")
            .args(["-TERM", &self.process.id().to_string()])
            .status();
        let until = Instant::now() + GRACE;
        while told.as_ref().is_ok_and(ExitStatus::success) && Instant::now() < until {
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
            // It may be gone already.
            let _gone = self.process.kill();
            let _reaped = self.process.wait();
        }
    }
}
