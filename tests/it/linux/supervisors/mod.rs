//! Remedies for a server that a real supervisor starts again, followed to the letter.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portlease::{Reservation, reserve_port};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::program::{installed, path_of, python};
use crate::support::{DEADLINE, Folder, eventually};

mod pm2;
mod services;
mod watchers;

/// Longer than runsv, s6-supervise and supervise pause before they start a program again: 1 s.
const STAYS_FREE: Duration = Duration::from_millis(1500);

/// A server on the port of its argument. It ends by itself if its test was killed.
const PYTHON_SERVER: &str = r#"
import signal, socket, sys
signal.alarm(300)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
signal.pause()
"#;

/// The same for Node.
const NODE_SERVER: &str = r#"
setTimeout(() => process.exit(), 300_000);
require("net").createServer().listen(Number(process.argv[2]), "127.0.0.1");
"#;

/// A reserved port, and a folder with the scripts of a server for it.
struct Site {
    p: Reservation,
    folder: Folder,
}

impl Site {
    fn new() -> Site {
        let (p, folder) = (reserve_port(), Folder::new());
        let site = Site { p, folder };
        std::fs::create_dir(site.app()).unwrap();
        std::fs::write(site.app().join("server.py"), PYTHON_SERVER).unwrap();
        std::fs::write(site.app().join("server.js"), NODE_SERVER).unwrap();
        site
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the scripts.
    fn app(&self) -> PathBuf {
        self.path().join("app")
    }

    /// A command line that runs the server.
    fn server_line(&self) -> String {
        format!("{} {}/server.py {}", python(), self.app().display(), self.p)
    }

    /// The help line of a check. Empty if the port is free.
    fn help(&self) -> String {
        let report = portlease::check_port_free(self.p.port()).err();
        report.and_then(|report| report.help()).unwrap_or_default()
    }

    /// The processes that listen.
    fn listeners(&self) -> Vec<u32> {
        let holders = portlease::who_holds(&self.p).unwrap();
        let servers = holders.iter().filter(|socket| socket.is_server());
        let pids = servers.flat_map(|socket| socket.processes.iter().map(|process| process.pid));
        pids.collect()
    }

    /// The process that listens; 0 if none does.
    fn server(&self) -> u32 {
        self.listeners().first().copied().unwrap_or_default()
    }

    /// The control: the server alone is killed, and another one serves. `change` changes the file
    /// that a watcher watches.
    fn kill_server(&self, change: impl Fn()) -> u32 {
        self.kill_server_by(Signal::TERM, change)
    }

    fn kill_server_by(&self, by: Signal, change: impl Fn()) -> u32 {
        let killed = self.server();
        signal(killed, by);
        // A watcher that has just started may miss the first change. A second one that is too early
        // would start the server twice.
        let mut pause = Duration::from_millis(300);
        let mut changed = Instant::now();
        eventually("another process serves", DEADLINE, || match self.server() {
            0 => {
                if changed.elapsed() > pause {
                    change();
                    changed = Instant::now();
                    pause = Duration::from_secs(10);
                }
                Err("nothing listens".to_owned())
            }
            pid if pid == killed => Err("the killed process listens".to_owned()),
            pid => Ok(pid),
        })
    }

    /// The port becomes free and stays free.
    fn stays_free(&self) {
        self.p.wait_until_free(DEADLINE).unwrap();
        let again = self.p.wait_until_listening(STAYS_FREE);
        assert!(again.is_err(), "pid {} serves again", self.server());
    }
}

/// A supervisor that runs the server of a site. Dropping it kills both.
struct Supervisor<'a> {
    site: &'a Site,
    child: Child,
}

impl Supervisor<'_> {
    /// The server listens when this returns.
    fn start(site: &Site, mut command: Command) -> Supervisor<'_> {
        let log = site.path().join("log");
        let output = File::create(&log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let child = command.spawn().unwrap();
        let mut supervisor = Supervisor { site, child };
        let listens = site.p.wait_for(&mut supervisor.child, DEADLINE);
        listens.unwrap_or_else(|e| panic!("{e}\n{}", std::fs::read_to_string(&log).unwrap()));
        supervisor
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Supervisor<'_> {
    fn drop(&mut self) {
        kill_tree(self.pid());
        let _reaped = self.child.wait();
        // A server whose parent has ended.
        for pid in self.site.listeners() {
            kill_tree(pid);
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = pid.try_into().ok().and_then(Pid::from_raw);
    // It may be gone already.
    let _gone = kill_process(pid.unwrap(), signal);
}

fn kill(pid: u32) {
    signal(pid, Signal::TERM);
}

/// Kills a process and its descendants. Each is suspended first, so that it starts no others.
fn kill_tree(pid: u32) {
    signal(pid, Signal::STOP);
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    for thread in threads.into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(thread.path().join("children"));
        for child in children.unwrap_or_default().split_whitespace() {
            kill_tree(child.parse().unwrap());
        }
    }
    signal(pid, Signal::KILL);
}

/// The commands of a help line.
fn commands(help: &str) -> Vec<&str> {
    help.split('`').skip(1).step_by(2).collect()
}

/// Runs a command of a help line, from another working directory. Returns its output.
fn sh(command: &str, may_fail: bool) -> String {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir("/");
    shell.env("PATH", path_with_node_programs());
    let output = shell.output().unwrap();
    assert!(may_fail || output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the command that shows the names, and then the one that stops the program. `name` returns
/// the name in a line that is about it.
fn stop_by_name(help: &str, name: impl Fn(&str) -> Option<&str>) {
    let [stop, list, ..] = commands(help)[..] else {
        panic!("{help}");
    };
    // The list may not show a program that has just started. supervisorctl exits with a status of
    // the program.
    let name = eventually("the program is listed", DEADLINE, || {
        let shown = sh(list, true);
        let name = shown.lines().find_map(&name).map(str::to_owned);
        name.ok_or(format!("{help}\n{shown}"))
    });
    sh(
        &format!("{}{name}", stop.strip_suffix("NAME").unwrap()),
        false,
    );
}

/// The folder of the programs that npm has installed for the tests.
fn node_programs() -> Option<PathBuf> {
    Some(std::env::var_os("PORTLEASE_TEST_NODE")?.into())
}

fn path_with_node_programs() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = node_programs().into_iter();
    std::env::join_paths(folders.chain(std::env::split_paths(&path))).unwrap()
}

/// The path of a program that npm or pip may have installed for the tests.
fn program(name: &str) -> Option<PathBuf> {
    let of_python = Path::new(&python()).with_file_name(name);
    let folders = node_programs().map(|folder| folder.join(name));
    let mut paths = folders.into_iter().chain([of_python]);
    let path = paths.find(|path| path.is_absolute() && path.is_file());
    path.or_else(|| path_of(name))
}

fn has_program(name: &str) -> Result<(), String> {
    program(name).map_or_else(|| installed(name), |_| Ok(()))
}
