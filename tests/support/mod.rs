//! The other processes of a test: this test binary itself, started again to play a role.
//!
//! A role runs under libtest like any test: every binary has one `#[test] fn role()`, which returns at once unless
//! [`ROLE`] names a part to play. That works the same under `cargo test` and `cargo nextest run`, in other
//! namespaces and as other users.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

pub(crate) mod program;
#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(windows, path = "windows.rs")]
mod system;

#[allow(
    unused_imports,
    reason = "each test binary uses its part of what they share"
)]
pub(crate) use system::{is_root, show_owner, was_killed};

/// The variable that gives a process its part.
pub(crate) const ROLE: &str = "PORTLEASE_TEST_ROLE";

/// The variable with what the part is about, as words.
pub(crate) const ARGS: &str = "PORTLEASE_TEST_ARGS";

/// Long enough for a machine that is busy with everything else; nobody waits for so long on a good day.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

/// Marks the lines of a role that are for its parent, among those of libtest.
const MARK: &str = "@@ ";

/// The part that this process is to play, and the words about it.
pub(crate) fn part() -> Option<(String, Words)> {
    let role = std::env::var(ROLE).ok()?;
    Some((role, Words::parse(&std::env::var(ARGS).unwrap_or_default())))
}

/// Says a line to the parent.
pub(crate) fn say(line: &str) {
    // Not println: libtest captures that.
    let mut out = io::stdout().lock();
    let whole = format!("{MARK}{}\n", line.replace('\n', "\\n"));
    // A parent that is gone wants no answer.
    let _heard = out.write_all(whole.as_bytes()).and_then(|()| out.flush());
}

/// The parent's next line; `None` once the parent closed the pipe or is gone.
pub(crate) fn listen() -> Option<String> {
    let mut line = String::new();
    match io::stdin().read_line(&mut line) {
        Ok(1..) => Some(line.trim_end().to_owned()),
        _ => None,
    }
}

/// `port=60315 many=3`: words with values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words(Vec<(String, String)>);

impl Words {
    pub(crate) fn parse(text: &str) -> Words {
        let pair = |word: &str| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name.to_owned(), value.to_owned())
        };
        Words(text.split_whitespace().map(pair).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name).map(|value| {
            value
                .parse()
                .ok()
                .unwrap_or_else(|| panic!("{name}={value:?} is no number"))
        })
    }

    pub(crate) fn numbers(&self, name: &str) -> Vec<u16> {
        let text = self.get(name).unwrap_or_default();
        text.split([',', '-'])
            .filter(|n| !n.is_empty())
            .map(|n| n.parse().unwrap())
            .collect()
    }

    pub(crate) fn first(&self) -> (&str, &str) {
        self.0
            .first()
            .map_or(("", ""), |(name, value)| (name, value))
    }
}

/// Polls until `look` says `Ok`, and fails with the last state seen.
pub(crate) fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(value) => return value,
            Err(state) if Instant::now() >= deadline => {
                panic!("{what}: not within {within:?}; the last state seen: {state}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Says something to whoever runs the tests. Not by `eprintln`, which libtest captures.
pub(crate) fn tell(line: &str) {
    let _told = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// The name of the test around it, as `cargo test` says it.
macro_rules! test_name {
    () => {{
        fn here() {}
        // An async test's is in a closure.
        let path = std::any::type_name_of_val(&here)
            .trim_end_matches("::here")
            .trim_end_matches("::{{closure}}");
        path.split_once("::").map_or(path, |(_binary, name)| name)
    }};
}
pub(crate) use test_name;

/// Ends the test around it, by name, where the machine lacks what the test needs.
macro_rules! need {
    ($($capability:expr),+ $(,)?) => {
        $(if let Err(reason) = $capability {
            return $crate::support::skip($crate::support::test_name!(), &reason);
        })+
    };
}
pub(crate) use need;

pub(crate) fn skip(test: &str, reason: &str) {
    let line = format!("skipped: {test}: {reason}");
    assert!(
        std::env::var_os("PORTLEASE_NO_SKIP").is_none_or(|v| v != "1"),
        "{line}"
    );
    tell(&line);
    if let Some(path) = std::env::var_os("PORTLEASE_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        // One write, so that lines of tests that run at once do not mix.
        let noted = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        assert!(
            noted.is_ok(),
            "cannot append to PORTLEASE_SKIPS, {path:?}: {noted:?}"
        );
    }
}

/// What a test may need of the machine.
pub(crate) mod capability {
    use super::*;

    type Capability = Result<(), String>;

    pub(crate) fn root() -> Capability {
        if is_root() {
            Ok(())
        } else {
            Err("not root".to_owned())
        }
    }

    pub(crate) fn nobody() -> Capability {
        root()?;
        works(
            "setpriv",
            &["--reuid=65534", "--regid=65534", "--clear-groups", "true"],
        )
    }

    pub(crate) fn network_namespace() -> Capability {
        let mut args = unshare_flags();
        args.extend([
            "-n",
            "sh",
            "-c",
            "ip link set lo up && test -w /proc/sys/net/ipv4/ip_local_port_range",
        ]);
        works("unshare", &args)
    }

    pub(crate) fn mount_namespace() -> Capability {
        let mut args = unshare_flags();
        args.extend(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]);
        works("unshare", &args)
    }

    /// Without it `/proc/net` serves, which shows no TCP socket that is bound and does not listen.
    pub(crate) fn sock_diag() -> Capability {
        if cfg!(not(target_os = "linux")) {
            return Ok(());
        }
        const NETLINK: i32 = 16;
        const SOCK_DIAG: i32 = 4;
        Socket::new(Domain::from(NETLINK), Type::DGRAM, Some(SOCK_DIAG.into()))
            .map(drop)
            .map_err(|e| format!("no sock_diag: {e}"))
    }

    /// That the kernel runs this program itself. Under an emulator others see the emulator in its place, `/proc/self`
    /// is made up, and the system calls are the emulator's.
    pub(crate) fn native() -> Capability {
        if cfg!(not(target_os = "linux")) {
            return Ok(());
        }
        // By another process: it is not told the emulator's story.
        let link = format!("/proc/{}/exe", std::process::id());
        let shown = Command::new("readlink")
            .arg(&link)
            .output()
            .map_err(|e| format!("readlink: {e}"))?;
        let shown = String::from_utf8_lossy(&shown.stdout).trim_end().to_owned();
        if Path::new(&shown) == current_exe() {
            Ok(())
        } else {
            Err(format!("run by {shown}"))
        }
    }

    pub(crate) fn strace() -> Capability {
        native()?;
        works(
            "strace",
            &[
                "-o",
                "/dev/null",
                "-e",
                "inject=all:signal=CONT:when=1",
                "true",
            ],
        )
    }

    pub(crate) fn ipv6() -> Capability {
        TcpListener::bind((Ipv6Addr::LOCALHOST, 0))
            .map(drop)
            .map_err(|e| format!("no IPv6: {e}"))
    }

    fn works(program: &str, args: &[&str]) -> Capability {
        let told = || format!("{program} {}", args.join(" "));
        match Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .output()
        {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                Err(format!(
                    "{}: {}",
                    told(),
                    text.lines().next().unwrap_or("failed")
                ))
            }
            Err(e) => Err(format!("{}: {e}", told())),
        }
    }
}

/// Without root, a namespace of users in which one is root.
fn unshare_flags() -> Vec<&'static str> {
    if is_root() { Vec::new() } else { vec!["-r"] }
}

/// A folder that every user can reach and make files in, as in `/tmp`. Gone with the value.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        let builder = |parent: &Path| {
            tempfile::Builder::new()
                .prefix("portlease-test-")
                .tempdir_in(parent)
        };
        let usual = std::env::temp_dir();
        let parent = if system::others_reach(&usual) {
            usual
        } else {
            PathBuf::from("/tmp")
        };
        let folder = builder(&parent).unwrap();
        system::set_mode(folder.path(), 0o1777);
        Folder(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// What `PORTLEASE_DIR` is given: nothing is there yet, like `/tmp/portlease` on a fresh machine.
    pub(crate) fn locks(&self) -> PathBuf {
        self.path().join("portlease")
    }

    /// The lock folder of this network namespace.
    pub(crate) fn scope(&self) -> PathBuf {
        self.locks().join(system::scope())
    }

    pub(crate) fn lock_file(&self, port: u16) -> PathBuf {
        self.scope().join(format!("{port}.tcp"))
    }
}

/// A process to start: this binary, in a part.
#[derive(Debug)]
pub(crate) struct Launch {
    role: &'static str,
    args: String,
    locks: PathBuf,
    variables: Vec<(&'static str, OsString)>,
    unshare: Vec<&'static str>,
    setup: String,
    nobody: bool,
    trace: Vec<String>,
}

impl Launch {
    /// `locks` is the process's `PORTLEASE_DIR`.
    pub(crate) fn new(role: &'static str, locks: &Path) -> Launch {
        Launch {
            role,
            args: String::new(),
            locks: locks.to_owned(),
            variables: Vec::new(),
            unshare: Vec::new(),
            setup: String::new(),
            nobody: false,
            trace: Vec::new(),
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

    /// In a network namespace of its own, with the loopback interface up and so many ephemeral ports.
    pub(crate) fn with_ephemeral_ports(self, count: u16) -> Self {
        let (low, high) = (EPHEMERAL_LOW, EPHEMERAL_LOW + count - 1);
        self.in_network("ip link set lo up").setup(format!(
            "echo {low} {high} > /proc/sys/net/ipv4/ip_local_port_range"
        ))
    }

    /// In a network namespace of its own, after these commands.
    pub(crate) fn in_network(mut self, setup: &str) -> Self {
        self.unshare.push("-n");
        self.setup(setup)
    }

    /// In a mount namespace of its own, after these commands.
    pub(crate) fn in_mounts(mut self, setup: impl AsRef<str>) -> Self {
        self.unshare.push("-m");
        self.setup(setup)
    }

    /// After these commands of the shell.
    pub(crate) fn setup(mut self, setup: impl AsRef<str>) -> Self {
        let _infallible = writeln!(self.setup, "{} || exit 99", setup.as_ref());
        self
    }

    /// As the user nobody.
    pub(crate) fn run_by_nobody(mut self) -> Self {
        self.nobody = true;
        self
    }

    /// Under strace with these arguments.
    pub(crate) fn traced(mut self, args: impl IntoIterator<Item = String>) -> Self {
        self.trace.push("strace".to_owned());
        self.trace.extend(args);
        self
    }

    /// With these variables for itself alone, not for what starts it.
    #[allow(dead_code, reason = "only the tests of clocks need it")]
    pub(crate) fn innermost(mut self, variables: impl IntoIterator<Item = String>) -> Self {
        self.trace.push("env".to_owned());
        self.trace.extend(variables);
        self
    }

    pub(crate) fn start(self) -> Child {
        let (binary, copy) = if self.nobody {
            binary_for_everybody()
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
        line.extend(self.trace.into_iter().map(OsString::from));
        line.push(binary.into());
        line.extend(["--exact", "role", "--nocapture", "--test-threads=1"].map(OsString::from));

        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .env(ROLE, self.role)
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
        let (heard, lines) = channel();
        collect(process.stdout.take().unwrap(), log.clone(), Some(heard));
        collect(process.stderr.take().unwrap(), log.clone(), None);
        Child {
            role: self.role,
            stdin: process.stdin.take(),
            process,
            lines,
            log,
            _copy: copy,
        }
    }
}

/// The first ephemeral port of the network namespaces that the tests make: nobody else is in them.
pub(crate) const EPHEMERAL_LOW: u16 = 40000;

fn current_exe() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// This binary, where every user can execute it.
fn binary_for_everybody() -> (PathBuf, Option<Folder>) {
    let binary = current_exe();
    if system::others_reach(&binary) {
        return (binary, None);
    }
    let folder = Folder::new();
    let copy = folder.path().join("role");
    // By another process: a child forked at this moment would keep the copy open for writing, and so from being run.
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

/// The last lines that a process said, for whoever asks why it failed.
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

fn collect(pipe: impl Read + Send + 'static, log: Arc<Mutex<Log>>, heard: Option<Sender<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            log.lock().unwrap().push(&line);
            // libtest prints the test's name without a line end.
            if let (Some(heard), Some((_, said))) = (&heard, line.split_once(MARK)) {
                // Nobody listens any more.
                let _gone = heard.send(said.to_owned());
            }
        }
    });
}

/// A process in its part. Killed, by its id, when the value is dropped.
pub(crate) struct Child {
    role: &'static str,
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    log: Arc<Mutex<Log>>,
    _copy: Option<Folder>,
}

impl Child {
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Tells it a line.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        if let Err(e) = stdin.write_all(format!("{line}\n").as_bytes()) {
            panic!(
                "cannot tell {:?} to {}: {e}\n{}",
                line,
                self.role,
                self.said()
            );
        }
    }

    /// Its next line.
    pub(crate) fn hear(&mut self) -> String {
        match self.hear_or_end() {
            Some(line) => line,
            None => panic!("{} ended without an answer\n{}", self.role, self.said()),
        }
    }

    /// Its next line; `None` if it ends instead.
    pub(crate) fn hear_or_end(&mut self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!(
                    "{} said nothing for {DEADLINE:?}\n{}",
                    self.role,
                    self.said()
                )
            }
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Closes its input, lets it end, and returns how it did and what it had said.
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<String>) {
        drop(self.stdin.take());
        let mut said = Vec::new();
        while let Some(line) = self.hear_or_end() {
            said.push(line);
        }
        let status = eventually("the process ends", DEADLINE, || {
            match self.process.try_wait() {
                Ok(Some(status)) => Ok(status),
                other => Err(format!("{} {other:?}", self.role)),
            }
        });
        (status, said)
    }

    /// The same for one that must succeed: what it had said.
    pub(crate) fn succeed(self) -> Vec<String> {
        let (log, role) = (self.log.clone(), self.role);
        let (status, said) = self.end();
        assert!(
            status.success(),
            "{role} failed ({status})\n{}",
            text_of(&log)
        );
        said
    }

    pub(crate) fn said(&self) -> String {
        text_of(&self.log)
    }
}

fn text_of(log: &Mutex<Log>) -> String {
    let log = log.lock().unwrap();
    log.0.iter().fold("its output:".to_owned(), |text, line| {
        text + "\n    " + line
    })
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
