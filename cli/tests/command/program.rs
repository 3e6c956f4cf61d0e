//! The command as a process, and how it ended.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use portlease::{Reservation, ReserveOptions};
use serde_json::Value;

use crate::support::{DEADLINE, Folder, eventually};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_portlease");

/// The binary with these arguments, and nothing in its environment that changes what it does.
pub(crate) fn portlease(args: &[&str]) -> Command {
    let mut command = if ignores_signals() {
        let mut command = Command::new("env");
        command.args(["--default-signal=INT,HUP", BINARY]);
        command
    } else {
        Command::new(BINARY)
    };
    command.args(args);
    plain(&mut command);
    command
}

/// As under nohup, and in the background of a script. What the command finds ignored it leaves so.
fn ignores_signals() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 3 != 0
}

/// Takes out of the environment what changes what the command does.
pub(crate) fn plain(command: &mut Command) {
    for name in [
        "PORTLEASE_RANGE",
        "PORTSERVER_ADDRESS",
        "GITHUB_ACTIONS",
        "NO_COLOR",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(name);
    }
    // The name of this test is not what the command is to tell.
    command.env_remove("NEXTEST_TEST_NAME");
    command
        .env_remove("PORT")
        .env("BIN", BINARY)
        .stdin(Stdio::null());
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// What it said, if it ended with this code.
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Ran {
        assert_eq!(self.status.code(), Some(expected), "{self:#?}");
        self
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "one object: {self:#?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// As a shell tells it.
    pub(crate) fn shell_code(&self) -> i32 {
        self.status
            .code()
            .or_else(|| self.status.signal().map(|signal| 128 + signal))
            .unwrap()
    }
}

/// Runs it until it has ended and closed its output, but not for ever.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Ran {
    Running::start(command).finish()
}

#[track_caller]
pub(crate) fn ran(args: &[&str]) -> Ran {
    finish(&mut portlease(args))
}

/// A process with its output captured; killed, by its id, when the value is dropped.
pub(crate) struct Running {
    process: Option<Child>,
    pid: u32,
}

impl Running {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = command
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Running {
            pid: process.id(),
            process: Some(process),
        }
    }

    /// The same with what it says on stderr in a file, of which the first line is waited for.
    #[track_caller]
    pub(crate) fn that_says(command: &mut Command, log: &Path) -> (Running, String) {
        command
            .stdout(Stdio::piped())
            .stderr(File::create(log).unwrap());
        let process = command
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let running = Running {
            pid: process.id(),
            process: Some(process),
        };
        (running, line_in(log))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Whether it runs still.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    #[track_caller]
    pub(crate) fn finish(mut self) -> Ran {
        let process = self.process.take().unwrap();
        let (tell, told) = channel();
        std::thread::spawn(move || tell.send(process.wait_with_output()));
        let output = told.recv_timeout(DEADLINE).unwrap_or_else(|e| {
            kill(self.pid);
            panic!(
                "process {} does not end, or its output stays open: {e}",
                self.pid
            )
        });
        let output = output.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran {
            status: output.status,
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may be gone already.
            let _gone = process.kill();
            let _reaped = process.wait();
        }
    }
}

/// `kill -9` of a process that this test, or a program of its, started.
pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// A number that no socket holds and nobody else is given: what a reservation without a claim has.
pub(crate) fn silent() -> Reservation {
    ReserveOptions::new().reuse_addr(false).reserve().unwrap()
}

/// The first line that it writes to this file.
pub(crate) fn line_in(path: &Path) -> String {
    eventually("a line in the file", DEADLINE, || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        match text.split_once('\n') {
            Some((line, _)) => Ok(line.to_owned()),
            None => Err(format!("{text:?}")),
        }
    })
}

/// Nobody holds it, and it is reserved by nobody, in the eyes of a process that is not of its family.
pub(crate) fn becomes_free(port: u16, folder: &Folder) {
    let port = format!("{port}/tcp");
    let ask = |command| finish(portlease(&[command, &port]).env("PORTLEASE_DIR", folder.locks()));
    eventually("the port is let go", DEADLINE, || {
        let held = ask("who");
        match held.status.code() {
            Some(1) => Ok(()),
            // What has no lease and cannot be seen, a bare claim, can be run into.
            Some(3) if ask("check").status.code() == Some(0) => Ok(()),
            _ => Err(held.out),
        }
    });
}

/// Says this to a server, and returns its answer.
pub(crate) fn ask(port: u16, question: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(question)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    if text.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The binary where every user can execute it. Copied by another process: a child forked at this moment would keep
/// the copy open for writing, and so from being run.
pub(crate) fn for_everybody() -> (PathBuf, Folder) {
    let folder = Folder::new();
    let copy = folder.path().join("portlease-for-everybody");
    assert!(
        Command::new("cp")
            .arg(BINARY)
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    assert!(
        Command::new("chmod")
            .arg("755")
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    (copy, folder)
}
