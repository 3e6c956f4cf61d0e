//! Starts the command as a process, and captures its output.

use std::fs::File;
#[cfg(target_os = "linux")]
use std::io::{Read, Write};
#[cfg(target_os = "linux")]
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
#[cfg(target_os = "linux")]
use std::time::Duration;

use portlease::{Reservation, ReserveOptions};
#[cfg(unix)]
use rustix::process::Signal;
use serde_json::Value;

#[cfg(target_os = "linux")]
use crate::support::capability::unshare_flags;
use crate::support::{DEADLINE, Folder, eventually};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_portlease");

/// The binary with these arguments, in an environment without variables that change its behaviour.
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

/// Whether this test ignores SIGINT or SIGHUP, as under nohup or in the background of a script. The
/// command would inherit that.
fn ignores_signals() -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 3 != 0
}

/// Removes the variables that change the behaviour of the command. Sets `BIN` to the binary, and
/// stdin to an empty input.
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
    // The record of a reservation would show the name of this test.
    command.env_remove("NEXTEST_TEST_NAME");
    command
        .env_remove("PORT")
        .env("BIN", BINARY)
        .stdin(Stdio::null());
}

/// Runs the script in a new network namespace. There, a packet filter drops the connections to the
/// ports 4000 and 9000 to 9100, and rejects those to the ports 4001 and 4002.
#[cfg(target_os = "linux")]
pub(crate) fn filtered(script: &str) -> Ran {
    let script = format!(
        "ip link set lo up && nft add table inet t && \
         nft 'add chain inet t in {{ type filter hook input priority 0; }}' && \
         nft add rule inet t in tcp dport 9000-9100 drop && \
         nft add rule inet t in tcp dport 4000 drop && \
         nft add rule inet t in tcp dport 4001 reject with tcp reset && \
         nft add rule inet t in tcp dport 4002 reject || exit 99\n{script}"
    );
    let folder = Folder::new();
    let mut command = Command::new("unshare");
    command
        .args(unshare_flags())
        .args(["-n", "sh", "-c", &script])
        .env("PORTLEASE_DIR", folder.locks());
    plain(&mut command);
    finish(&mut command)
}

/// The exit status and the output of a process.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Ran {
        assert_eq!(self.status.code(), Some(expected), "{self:#?}");
        self
    }

    /// Asserts that the signal ended the process.
    #[cfg(unix)]
    #[track_caller]
    pub(crate) fn killed_by(self, signal: Signal) -> Ran {
        assert_eq!(self.status.signal(), Some(signal.as_raw()), "{self:#?}");
        self
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "one object: {self:#?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// The exit code as a shell reports it: 128+N after signal N.
    #[cfg(target_os = "linux")]
    pub(crate) fn shell_code(&self) -> i32 {
        self.status
            .code()
            .or_else(|| self.status.signal().map(|signal| 128 + signal))
            .unwrap()
    }
}

/// Runs the command until it has ended and closed its output, up to `DEADLINE`.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Ran {
    Running::start(command).finish()
}

#[track_caller]
pub(crate) fn ran(args: &[&str]) -> Ran {
    finish(&mut portlease(args))
}

/// A process whose output is captured. Dropping the value kills the process.
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

    /// Starts the command like [`Running::start`], but with its stderr in the file `log`. Waits for
    /// the first line of the file, and returns it.
    #[track_caller]
    pub(crate) fn with_log(command: &mut Command, log: &Path) -> (Running, String) {
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

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Whether the process is still running.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    #[track_caller]
    pub(crate) fn finish(mut self) -> Ran {
        let process = self.process.take().unwrap();
        let (sender, receiver) = channel();
        std::thread::spawn(move || sender.send(process.wait_with_output()));
        let output = receiver.recv_timeout(DEADLINE).unwrap_or_else(|e| {
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
            // The process may have ended already.
            let _killed = process.kill();
            let _reaped = process.wait();
        }
    }
}

/// Ends a process that this test, or a program of it, started.
#[cfg(windows)]
pub(crate) fn kill(pid: u32) {
    let mut kill = Command::new("taskkill");
    kill.args(["/F", "/PID", &pid.to_string()]);
    // The process may have ended already.
    let _gone = kill.stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Sends SIGKILL to a process that this test, or a program of it, started.
#[cfg(unix)]
pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// A reservation without a claim: no socket is on the port, and no other process is assigned it.
pub(crate) fn silent() -> Reservation {
    ReserveOptions::new().reuse_addr(false).reserve().unwrap()
}

/// Waits for the first line of a file.
pub(crate) fn line_in(path: &Path) -> String {
    eventually("a line in the file", DEADLINE, || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        match text.split_once('\n') {
            Some((line, _)) => Ok(line.to_owned()),
            None => Err(format!("{text:?}")),
        }
    })
}

/// Waits until the port has neither a socket nor a reservation, as an unrelated process sees it.
#[cfg(target_os = "linux")]
pub(crate) fn becomes_free(port: u16, folder: &Folder) {
    let port = format!("{port}/tcp");
    let ask = |command| finish(portlease(&[command, &port]).env("PORTLEASE_DIR", folder.locks()));
    eventually("the port is released", DEADLINE, || {
        let held = ask("who");
        match held.status.code() {
            Some(1) => Ok(()),
            // `who` cannot see a claim without a lease, so `check` tries to bind.
            Some(3) if ask("check").status.code() == Some(0) => Ok(()),
            _ => Err(held.out),
        }
    });
}

/// Sends a request to a server, and returns the answer.
#[cfg(target_os = "linux")]
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

/// A process that does nothing until it is killed.
pub(crate) fn idle() -> Command {
    let mut command = match cfg!(windows) {
        true => Command::new("cmd"),
        false => Command::new("sleep"),
    };
    match cfg!(windows) {
        // Without input, `pause` would end at once.
        true => command.args(["/c", "pause"]).stdin(Stdio::piped()),
        false => command.arg("600").stdin(Stdio::null()),
    };
    command.stdout(Stdio::null());
    command
}

/// A copy of the binary that every user can execute. cp(1) makes the copy. If this process wrote
/// it, a child forked meanwhile would inherit the file open for writing. Then exec would fail with
/// ETXTBSY.
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
