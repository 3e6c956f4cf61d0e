//! Helper processes: this test binary, started again as another process of the test.
//!
//! A helper process runs under libtest like any test. Every binary has one
//! `#[test] fn helper_process()`, which returns at once unless [`NAME`] says which helper to run.
//! That works the same under `cargo test` and `cargo nextest run`, in other namespaces and as other
//! users.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};

use super::args::Args;
use super::capability::unshare_flags;
use super::{DEADLINE, Folder, eventually, system};

/// The variable with the name of the helper to run.
pub(crate) const NAME: &str = "PORTLEASE_TEST_HELPER";

/// The variable with the arguments of the helper.
pub(crate) const ARGS: &str = "PORTLEASE_TEST_ARGS";

/// The arguments of libtest in a helper process.
pub(crate) const LIBTEST_ARGS: [&str; 4] = [
    "--exact",
    "helper_process",
    "--nocapture",
    "--test-threads=1",
];

/// Marks the lines that are for the parent, among those of libtest.
pub(crate) const MARK: &str = "@@ ";

/// The name and arguments of the helper to run, if this process is a helper process.
pub(crate) fn requested() -> Option<(String, Args)> {
    let name = std::env::var(NAME).ok()?;
    Some((name, Args::parse(&std::env::var(ARGS).unwrap_or_default())))
}

/// Sends a line to the parent.
pub(crate) fn reply(line: &str) {
    // Not println: libtest captures that.
    let mut out = io::stdout().lock();
    let whole = format!("{MARK}{}\n", line.replace('\n', "\\n"));
    // The parent may be gone.
    let _sent = out.write_all(whole.as_bytes()).and_then(|()| out.flush());
}

/// The parent's next line; `None` once the parent closed the pipe or is gone.
pub(crate) fn next_line() -> Option<String> {
    let mut line = String::new();
    match io::stdin().read_line(&mut line) {
        Ok(1..) => Some(line.trim_end().to_owned()),
        _ => None,
    }
}

/// A helper process to start.
#[derive(Debug)]
pub(crate) struct Launch {
    name: &'static str,
    args: String,
    locks: PathBuf,
    variables: Vec<(&'static str, OsString)>,
    unshare: Vec<&'static str>,
    setup: String,
    nobody: bool,
    wrapper: Vec<String>,
}

impl Launch {
    /// `locks` is the process's `PORTLEASE_DIR`.
    pub(crate) fn new(name: &'static str, locks: &Path) -> Launch {
        Launch {
            name,
            args: String::new(),
            locks: locks.to_owned(),
            variables: Vec::new(),
            unshare: Vec::new(),
            setup: String::new(),
            nobody: false,
            wrapper: Vec::new(),
        }
    }

    pub(crate) fn args(mut self, args: impl Into<String>) -> Self {
        self.args = args.into();
        self
    }

    pub(crate) fn variable(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Runs the helper in its own network namespace, with the loopback interface up and this number
    /// of ephemeral ports.
    pub(crate) fn with_ephemeral_ports(self, count: u16) -> Self {
        let (low, high) = (EPHEMERAL_LOW, EPHEMERAL_LOW + count - 1);
        self.in_network("ip link set lo up").setup(format!(
            "echo {low} {high} > /proc/sys/net/ipv4/ip_local_port_range"
        ))
    }

    /// Runs the helper in its own network namespace. These shell commands run there first.
    pub(crate) fn in_network(mut self, setup: &str) -> Self {
        self.unshare.push("-n");
        self.setup(setup)
    }

    /// Runs the helper as the first process of its own pid namespace. The namespace ends with it.
    pub(crate) fn run_as_first_process(mut self) -> Self {
        let flags = ["-p", "-f", "--kill-child", "--mount-proc"];
        self.unshare.extend(flags);
        self
    }

    /// Runs the helper in its own mount namespace. These shell commands run there first.
    pub(crate) fn in_mounts(mut self, setup: impl AsRef<str>) -> Self {
        self.unshare.push("-m");
        self.setup(setup)
    }

    /// Runs these shell commands before the helper process.
    pub(crate) fn setup(mut self, setup: impl AsRef<str>) -> Self {
        let _infallible = writeln!(self.setup, "{} || exit 99", setup.as_ref());
        self
    }

    /// Runs the helper as the user nobody.
    pub(crate) fn run_as_nobody(mut self) -> Self {
        self.nobody = true;
        self
    }

    /// Runs the helper under strace with these arguments.
    pub(crate) fn traced(mut self, args: impl IntoIterator<Item = String>) -> Self {
        self.wrapper.push("strace".to_owned());
        self.wrapper.extend(args);
        self
    }

    /// Starts the helper through this program and its arguments. The program must execute the
    /// arguments that follow.
    #[allow(dead_code, reason = "only the tests of sandboxes need it")]
    pub(crate) fn wrapped(mut self, wrapper: impl IntoIterator<Item = String>) -> Self {
        self.wrapper.extend(wrapper);
        self
    }

    /// Starts the helper through env(1) with these arguments. They change the variables of the
    /// helper alone, not of the programs that start it.
    #[allow(dead_code, reason = "some tests need it")]
    pub(crate) fn innermost(mut self, variables: impl IntoIterator<Item = String>) -> Self {
        self.wrapper.push("env".to_owned());
        self.wrapper.extend(variables);
        self
    }

    pub(crate) fn start(self) -> Helper {
        let (binary, copy) = if self.nobody {
            binary_for_every_user()
        } else {
            (current_exe(), None)
        };
        let mut line: Vec<OsString> = Vec::new();
        if !self.unshare.is_empty() {
            line.push("unshare".into());
            line.extend(
                unshare_flags()
                    .into_iter()
                    .chain(self.unshare)
                    .map(OsString::from),
            );
        }
        if !self.setup.is_empty() {
            let script = format!("{}exec \"$@\"", self.setup);
            line.extend(["sh".into(), "-c".into(), script.into(), "sh".into()]);
        }
        if self.nobody {
            line.extend(
                [
                    "setpriv",
                    "--reuid=65534",
                    "--regid=65534",
                    "--clear-groups",
                ]
                .map(OsString::from),
            );
        }
        line.extend(self.wrapper.into_iter().map(OsString::from));
        line.push(binary.into());
        line.extend(LIBTEST_ARGS.map(OsString::from));

        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .env(NAME, self.name)
            .env(ARGS, &self.args)
            .env_remove("PORTLEASE_RANGE");
        command
            .env("PORTLEASE_DIR", &self.locks)
            .envs(self.variables);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {line:?}: {e}"));
        let log = Arc::new(Mutex::new(Log::default()));
        let (sender, lines) = channel();
        read_lines(process.stdout.take().unwrap(), log.clone(), Some(sender));
        read_lines(process.stderr.take().unwrap(), log.clone(), None);
        Helper {
            name: self.name,
            stdin: process.stdin.take(),
            process,
            lines,
            log,
            _copy: copy,
        }
    }
}

/// The first ephemeral port of the network namespaces that the tests create, in which no other
/// program runs.
pub(crate) const EPHEMERAL_LOW: u16 = 40000;

fn current_exe() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// The path of this binary, or of a copy if not every user can execute the binary.
fn binary_for_every_user() -> (PathBuf, Option<Folder>) {
    let binary = current_exe();
    if system::others_reach(&binary) {
        return (binary, None);
    }
    let folder = Folder::new();
    let copy = folder.path().join("helper");
    // Another process copies it. If this one did, a child that is forked meanwhile would have the
    // copy open for writing, and exec would fail with ETXTBSY.
    assert!(
        Command::new("cp")
            .arg(&binary)
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    system::set_mode(&copy, 0o755);
    (copy, Some(folder))
}

/// The last lines of a process, for the message when it fails.
#[derive(Debug, Default)]
struct Log(VecDeque<String>);

impl Log {
    const LINES: usize = 200;

    fn push(&mut self, line: &str) {
        if self.0.len() == Self::LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }
}

/// Reads a pipe in a thread: every line goes to the log, and those for the parent to `sender`.
fn read_lines(
    pipe: impl Read + Send + 'static,
    log: Arc<Mutex<Log>>,
    sender: Option<Sender<String>>,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            log.lock().unwrap().push(&line);
            // libtest prints the test's name without a line end, so the mark may follow it.
            if let (Some(sender), Some((_, reply))) = (&sender, line.split_once(MARK)) {
                // The receiver may be gone.
                let _gone = sender.send(reply.to_owned());
            }
        }
    });
}

/// A running helper process. Dropping the value kills the process by its pid.
pub(crate) struct Helper {
    name: &'static str,
    process: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    log: Arc<Mutex<Log>>,
    _copy: Option<Folder>,
}

impl Helper {
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a line to the helper process.
    pub(crate) fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        if let Err(e) = stdin.write_all(format!("{line}\n").as_bytes()) {
            panic!(
                "cannot send {:?} to {}: {e}\n{}",
                line,
                self.name,
                self.output()
            );
        }
    }

    /// The next reply.
    pub(crate) fn receive(&mut self) -> String {
        match self.receive_or_end() {
            Some(line) => line,
            None => panic!("{} ended without a reply\n{}", self.name, self.output()),
        }
    }

    /// The next reply; `None` if the process ends instead.
    pub(crate) fn receive_or_end(&mut self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!(
                    "{} sent nothing for {DEADLINE:?}\n{}",
                    self.name,
                    self.output()
                )
            }
        }
    }

    /// Sends SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Closes the input of the process and waits until it ends. Returns its exit status and its
    /// remaining replies.
    pub(crate) fn finish(mut self) -> (ExitStatus, Vec<String>) {
        drop(self.stdin.take());
        let mut replies = Vec::new();
        while let Some(line) = self.receive_or_end() {
            replies.push(line);
        }
        let status = eventually("the process ends", DEADLINE, || {
            match self.process.try_wait() {
                Ok(Some(status)) => Ok(status),
                other => Err(format!("{} {other:?}", self.name)),
            }
        });
        (status, replies)
    }

    /// Like [`Helper::finish`], but panics unless the process succeeds. Returns its remaining
    /// replies.
    pub(crate) fn succeed(self) -> Vec<String> {
        let (log, name) = (self.log.clone(), self.name);
        let (status, replies) = self.finish();
        assert!(
            status.success(),
            "{name} failed ({status})\n{}",
            text_of(&log)
        );
        replies
    }

    /// What the process has printed so far.
    pub(crate) fn output(&self) -> String {
        text_of(&self.log)
    }
}

fn text_of(log: &Mutex<Log>) -> String {
    let log = log.lock().unwrap();
    log.0.iter().fold("its output:".to_owned(), |text, line| {
        text + "\n    " + line
    })
}

impl Drop for Helper {
    fn drop(&mut self) {
        // The process may be gone already.
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
