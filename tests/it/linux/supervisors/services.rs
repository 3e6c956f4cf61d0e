//! Service managers from Debian packages.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::{Site, Supervisor, commands, kill, sh, signal, stop_by_name};
use crate::support::program::installed;
use crate::support::{DEADLINE, eventually, need, set_mode};

/// Makes an executable script of a service.
fn script(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    set_mode(path, 0o755);
}

/// A service in a folder whose name a shell would change. The supervisor gets the folder as a
/// relative path, through a symbolic link.
fn follow_for_a_service_folder(supervisor: &str, control: &str) {
    let site = Site::new();
    let folder = site.path().join("it's a \"web\" $HOME");
    script(&folder.join("run"), &format!("exec {}", site.server_line()));
    script(&folder.join("log/run"), "exec cat > /dev/null");
    symlink(&folder, site.path().join("link")).unwrap();
    let mut command = Command::new(supervisor);
    command.arg("link").current_dir(site.path());
    let mut service = Supervisor::start(&site, command);
    let server = site.kill_server(|| {});
    let help = site.help();
    let start = format!(
        "stop pid {server} through its supervisor {supervisor} (pid {}), which may otherwise start \
         it again: `{control} '",
        service.pid()
    );
    assert!(help.starts_with(&start), "{help}");
    assert!(!help.contains("if it still runs"), "{help}");
    sh(commands(&help)[0], false);
    site.stays_free();
    assert!(service.runs());
}

/// A service whose script does not exec the server. The supervisor ends the shell alone.
fn follow_for_a_shell(supervisor: &str) {
    let site = Site::new();
    let folder = site.path().join("web");
    script(
        &folder.join("run"),
        &format!("{}\ntrue", site.server_line()),
    );
    let mut command = Command::new(supervisor);
    command.arg(folder);
    let mut service = Supervisor::start(&site, command);
    let server = site.kill_server(|| {});
    let help = site.help();
    let named = format!(
        "through its supervisor {supervisor} (pid {})",
        service.pid()
    );
    assert!(help.contains(&named), "{help}");
    let then = format!("`, and then stop pid {server} if it still runs, or ");
    assert!(help.contains(&then), "{help}");
    sh(commands(&help)[0], false);
    stop_after_its_shell(&site, server);
    assert!(service.runs());
}

fn follow(supervisor: &str, control: &str) {
    std::thread::scope(|scope| {
        scope.spawn(|| follow_for_a_service_folder(supervisor, control));
        follow_for_a_shell(supervisor);
    });
}

/// The shell between the supervisor and the server ends, and the server still runs.
fn stop_after_its_shell(site: &Site, server: u32) {
    eventually("the server has no supervisor", DEADLINE, || {
        let help = site.help();
        match help.starts_with(&format!("stop pid {server}, or ")) {
            true => Ok(()),
            false => Err(help),
        }
    });
    kill(server);
    site.stays_free();
}

#[test]
fn a_service_of_runit_is_stopped_by_sv() {
    need!(installed("runsv"), installed("sv"));
    follow("runsv", "sv down");
}

#[test]
fn a_service_of_s6_is_stopped_by_s6_svc() {
    need!(installed("s6-supervise"), installed("s6-svc"));
    follow("s6-supervise", "s6-svc -d");
}

#[test]
fn a_service_of_daemontools_is_stopped_by_svc() {
    need!(installed("supervise"), installed("svc"));
    follow("supervise", "svc -d");
}

/// If it were killed, its supervisor would start another one.
#[test]
fn a_suspended_server_is_stopped_through_its_supervisor() {
    need!(installed("runsv"), installed("sv"));
    let site = Site::new();
    let folder = site.path().join("web");
    script(&folder.join("run"), &format!("exec {}", site.server_line()));
    let mut command = Command::new("runsv");
    command.arg(folder);
    let _service = Supervisor::start(&site, command);
    let server = site.server();
    signal(server, Signal::STOP);
    let then =
        format!("`, and then end pid {server} with kill -KILL {server} if it still runs, or ");
    let help = eventually("the process is suspended", DEADLINE, || {
        let help = site.help();
        match help.contains(&then) {
            true => Ok(help),
            false => Err(help),
        }
    });
    sh(commands(&help)[0], false);
    site.stays_free();
}

/// supervisord with this configuration file, for a program in a group.
fn supervisord(file: &Path, program: &str) -> Command {
    let folder = file.parent().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    let configuration = format!(
        "[unix_http_server]\nfile={folder}/socket\n\
         [supervisorctl]\nserverurl=unix://{folder}/socket\n\
         [rpcinterface:supervisor]\n\
         supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\
         [supervisord]\nnodaemon=true\nlogfile={folder}/log\npidfile={folder}/pid\n\
         childlogdir={folder}\n\
         [program:web]\nstartsecs=0\ncommand={program}\n\
         [group:shop]\nprograms=web\n",
        folder = folder.display(),
    );
    std::fs::write(file, configuration).unwrap();
    let mut command = Command::new("supervisord");
    command.current_dir(folder);
    command
}

/// The name of the program with this pid in a line of `supervisorctl status`.
fn name_in_status(line: &str, pid: u32) -> Option<&str> {
    let name = line.split_whitespace().next()?;
    line.contains(&format!(" pid {pid},")).then_some(name)
}

#[test]
fn a_program_of_supervisord_is_stopped_by_supervisorctl() {
    need!(installed("supervisord"), installed("supervisorctl"));
    let site = Site::new();
    let file = site.path().join("it's a web/my.conf");
    let mut command = supervisord(&file, &site.server_line());
    command.args(["-nc", "my.conf"]);
    let mut service = Supervisor::start(&site, command);
    let server = site.kill_server(|| {});
    let help = site.help();
    let expected = format!("status` shows for pid {server}, or ");
    assert!(help.contains(&expected), "{help}");
    stop_by_name(&help, |line| name_in_status(line, server));
    site.stays_free();
    assert!(service.runs());
}

/// supervisorctl shows the pid of the shell. The configuration file is in the working directory of
/// supervisord.
#[test]
fn a_server_that_supervisord_runs_through_a_shell_is_stopped_too() {
    need!(installed("supervisord"), installed("supervisorctl"));
    let site = Site::new();
    let program = format!("sh -c \"{}; false\"", site.server_line());
    let command = supervisord(&site.path().join("supervisord.conf"), &program);
    let _service = Supervisor::start(&site, command);
    let server = site.kill_server(|| {});
    let holders = portlease::who_holds(&site.p).unwrap();
    let listener = holders.iter().find(|socket| socket.is_server());
    let shell = listener.unwrap().processes[0].parent.unwrap();
    let help = site.help();
    let expected =
        format!("status` shows for pid {shell}, and then stop pid {server} if it still runs, or ");
    assert!(help.contains(&expected), "{help}");
    stop_by_name(&help, |line| name_in_status(line, shell));
    stop_after_its_shell(&site, server);
}
