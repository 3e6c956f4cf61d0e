//! Programs that run a command again when it ends or when a file changes, and shell scripts with a
//! loop.

use std::process::Command;

use rustix::process::Signal;

use super::{Site, Supervisor, has_program, kill, program, signal};
use crate::support::program::{installed, python_has};
use crate::support::{DEADLINE, eventually, need, set_mode};

/// Stops the watcher, and then the server if it still runs. A change of the script starts neither.
fn follow(name: &str, site: &Site, script: &str, command: Command) {
    let script = site.app().join(script);
    let change = || std::fs::write(&script, std::fs::read(&script).unwrap()).unwrap();
    let mut watcher = Supervisor::start(site, command);
    site.kill_server(change);
    let pid = watcher.pid();
    let server = eventually("the report names the new server", DEADLINE, || {
        let (server, help) = (site.server(), site.help());
        let start = format!(
            "stop {name} (pid {pid}) first, because it may start pid {server} again; then stop pid \
             {server} if it still runs, or "
        );
        match help.starts_with(&start) {
            true => Ok(server),
            false => Err(help),
        }
    });
    kill(pid);
    watcher.child.wait().unwrap();
    if site.server() == server {
        kill(server);
    }
    change();
    site.stays_free();
}

/// Whether this Node can watch files. Versions before 18.11 cannot.
fn node_watches() -> Result<(), String> {
    installed("node")?;
    let help = Command::new("node").arg("--help").output().unwrap();
    match String::from_utf8_lossy(&help.stdout).contains("--watch") {
        true => Ok(()),
        false => Err("node has no option --watch".to_owned()),
    }
}

/// The program runs the server of Node.
fn of_node(program: impl AsRef<std::ffi::OsStr>, options: &[&str], site: &Site) -> Command {
    let mut command = Command::new(program);
    let port = site.p.to_string();
    command.args(options).args(["server.js", &port]);
    command.current_dir(site.app());
    command
}

#[test]
fn node_that_watches_files_is_stopped_first() {
    need!(node_watches());
    let site = Site::new();
    let command = of_node("node", &["--watch"], &site);
    follow("node --watch", &site, "server.js", command);
}

#[test]
fn nodemon_is_stopped_first() {
    need!(installed("node"), has_program("nodemon"));
    let nodemon = program("nodemon").unwrap();
    let site = Site::new();
    follow("nodemon", &site, "server.js", of_node(&nodemon, &[], &site));
}

/// nodemon ends the shell, and the server still runs.
#[test]
fn nodemon_that_runs_a_shell_is_stopped_first() {
    need!(installed("node"), has_program("nodemon"));
    let site = Site::new();
    let line = format!("node server.js {}; true", site.p);
    let mut command = Command::new(program("nodemon").unwrap());
    command.args(["--watch", "server.js", "--exec", &line]);
    command.current_dir(site.app());
    follow("nodemon", &site, "server.js", command);
}

#[test]
fn watchmedo_is_stopped_first() {
    need!(python_has("watchdog"), has_program("watchmedo"));
    let site = Site::new();
    let mut command = Command::new(program("watchmedo").unwrap());
    let line = site.server_line();
    command
        .args(["auto-restart", "--directory"])
        .arg(site.app());
    command.arg("--").args(line.split(' '));
    follow("watchmedo", &site, "server.py", command);
}

/// honcho ends when one of its programs ends, and so does foreman.
#[test]
fn honcho_starts_nothing_again_and_is_not_named() {
    need!(has_program("honcho"));
    let site = Site::new();
    let procfile = site.path().join("Procfile");
    std::fs::write(&procfile, format!("web: {}\n", site.server_line())).unwrap();
    let mut command = Command::new(program("honcho").unwrap());
    command.arg("start").current_dir(site.path());
    let mut honcho = Supervisor::start(&site, command);
    let (server, help) = (site.server(), site.help());
    assert!(
        help.starts_with(&format!("stop pid {server}, or ")),
        "{help}"
    );
    kill(server);
    honcho.child.wait().unwrap();
    site.stays_free();
}

/// Runs a script in which `SERVER` is the command line of the server.
fn shell<'a>(site: &'a Site, script: &str) -> Supervisor<'a> {
    let mut command = Command::new("sh");
    command.args(["-c", &script.replace("SERVER", &site.server_line())]);
    Supervisor::start(site, command)
}

/// The same for a script in a file. The kernel names its shell after the file.
fn executable<'a>(site: &'a Site, script: &str) -> Supervisor<'a> {
    let file = site.path().join("dev.sh");
    let script = script.replace("SERVER", &site.server_line());
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    set_mode(&file, 0o755);
    let mut command = Command::new("env");
    command.arg(file);
    Supervisor::start(site, command)
}

fn follow_for_a_loop<'a>(name: &str, site: &'a Site, mut shell: Supervisor<'a>) {
    let (first, pid) = (site.server(), shell.pid());
    let help = site.help();
    let expected = format!(
        "stop pid {first}; if the loop in the script of {name} (pid {pid}) starts the program \
         again, stop pid {pid}, and then the new process"
    );
    assert!(help.starts_with(&expected), "{help}");
    let second = site.kill_server(|| {});
    kill(pid);
    shell.child.wait().unwrap();
    kill(second);
    site.stays_free();
}

/// A suspended shell takes SIGTERM only after SIGCONT.
#[test]
fn a_shell_that_is_suspended_or_ignores_sigterm_is_killed() {
    let traps = Site::new();
    let script = "trap '' TERM; while :; do SERVER; done";
    let mut shell_of_loop = shell(&traps, script);
    let (first, pid) = (traps.server(), shell_of_loop.pid());
    let help = traps.help();
    let expected = format!(
        "end pid {first} with kill -KILL {first}; if the loop in the script of sh (pid {pid}) \
         starts the program again, end pid {pid} with kill -KILL {pid}, and then the new process"
    );
    assert!(help.starts_with(&expected), "{help}");
    let second = traps.kill_server_by(Signal::KILL, || {});
    signal(pid, Signal::KILL);
    shell_of_loop.child.wait().unwrap();
    signal(second, Signal::KILL);
    traps.stays_free();

    let suspended = Site::new();
    let mut shell_of_loop = shell(&suspended, "while :; do SERVER; done");
    let (first, pid) = (suspended.server(), shell_of_loop.pid());
    signal(pid, Signal::STOP);
    eventually("the shell is suspended", DEADLINE, || {
        let help = suspended.help();
        let is_named = help.contains(&format!("end pid {pid} with kill -KILL {pid}"));
        if is_named { Ok(()) } else { Err(help) }
    });
    signal(pid, Signal::KILL);
    shell_of_loop.child.wait().unwrap();
    kill(first);
    suspended.stays_free();
}

#[test]
fn a_shell_script_with_a_loop_is_stopped_if_it_starts_the_server_again() {
    let script = "while :; do SERVER; done";
    let (site, other) = (Site::new(), Site::new());
    follow_for_a_loop("sh", &site, shell(&site, script));
    follow_for_a_loop("dev.sh", &other, executable(&other, script));
}

#[test]
fn a_shell_script_without_a_loop_is_not_named() {
    let site = Site::new();
    let mut shell = executable(&site, "SERVER; true");
    let (server, help) = (site.server(), site.help());
    assert!(
        help.starts_with(&format!("stop pid {server}, or ")),
        "{help}"
    );
    kill(server);
    shell.child.wait().unwrap();
    site.stays_free();
}
