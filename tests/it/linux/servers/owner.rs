//! Real servers. While they run, reports name their processes. When they end, their ports are free.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use portlease::{Holders, reserve_port};

use crate::support::program::{Program, path_of};
use crate::support::{DEADLINE, Folder, eventually, is_root, skip, test_name};

/// Starts a server, waits until it listens, checks who holds the port, stops it, and checks that
/// the port is free. Returns its pid and the holders.
fn holders_of(
    test: &str,
    program: &str,
    processes: usize,
    command: impl FnOnce(&PathBuf, u16, &Folder) -> Command,
) -> Option<(u32, Holders)> {
    let Some(path) = path_of(program) else {
        skip(test, &format!("{program} is not installed"));
        return None;
    };
    let p = reserve_port();
    let folder = Folder::new();
    let mut command = command(&path, p.port(), &folder);
    command.current_dir(folder.path());
    let mut server = Program::start(command, folder);
    if let Err(e) = p.wait_for(&mut server.process, DEADLINE) {
        panic!("{e}\n{}", server.log());
    }
    let pid = server.process.id();
    portlease::assert_port_held_by(&p, pid);
    let holders = eventually("the server has started its processes", DEADLINE, || {
        let holders = portlease::who_holds(&p).unwrap();
        let most = holders.iter().map(|holder| holder.processes.len()).max();
        if most >= Some(processes) {
            Ok(holders)
        } else {
            Err(holders.to_string())
        }
    });
    let text = portlease::check_port_free(&p).unwrap_err().to_string();
    assert!(
        text.contains(&format!(" listens on 127.0.0.1:{p}")),
        "{text}"
    );
    // The help names the server, not a worker of it.
    assert!(text.contains(&format!("help: stop pid {pid},")), "{text}");
    assert!(server.stop(), "the server does not end\n{}", server.log());
    p.wait_until_free(DEADLINE).unwrap();
    portlease::assert_port_free(&p);
    Some((pid, holders))
}

fn named(holders: &Holders, pid: u32) -> String {
    let process = holders
        .iter()
        .flat_map(|holder| &holder.processes)
        .find(|process| process.pid == pid);
    process
        .unwrap_or_else(|| panic!("pid {pid} is not among\n{holders}"))
        .name
        .clone()
}

#[test]
fn redis_server_is_named() {
    let command = |path: &PathBuf, port: u16, _: &Folder| {
        let mut command = Command::new(path);
        command.args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--port",
            &port.to_string(),
        ]);
        command
    };
    let Some((pid, holders)) = holders_of(test_name!(), "redis-server", 1, command) else {
        return;
    };
    assert_eq!(named(&holders, pid), "redis-server");
}

#[test]
fn nginx_is_named_with_its_workers() {
    let command = |path: &PathBuf, port: u16, folder: &Folder| {
        let text = format!(
            "daemon off; worker_processes 2; pid nginx.pid; error_log stderr;\n\
             events {{}}\nhttp {{ access_log off; \
             client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; \
             uwsgi_temp_path u; scgi_temp_path s; \
             server {{ listen 127.0.0.1:{port}; }} }}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
        let mut command = Command::new(path);
        command.args(["-e", "stderr", "-c", "nginx.conf", "-p", "."]);
        command
    };
    let Some((pid, holders)) = holders_of(test_name!(), "nginx", 2, command) else {
        return;
    };
    assert_eq!(named(&holders, pid), "nginx");
    let listener = holders.iter().next().unwrap();
    assert!(
        listener.processes.len() >= 2,
        "the master and workers share it: {holders}"
    );
    assert_eq!(
        listener.processes[0].pid, pid,
        "the master is the oldest: {holders}"
    );
    assert!(
        listener.processes[1..]
            .iter()
            .all(|worker| worker.parent == Some(pid)),
        "{holders}"
    );
}

#[test]
fn pythons_http_server_is_named() {
    let command = |path: &PathBuf, port: u16, _: &Folder| {
        let mut command = Command::new(path);
        command.args([
            "-m",
            "http.server",
            "--bind",
            "127.0.0.1",
            &port.to_string(),
        ]);
        command
    };
    let Some((pid, holders)) = holders_of(test_name!(), "python3", 1, command) else {
        return;
    };
    assert!(named(&holders, pid).starts_with("python"), "{holders}");
}

#[test]
fn postgresql_of_another_user_is_named() {
    let command = |path: &PathBuf, port: u16, folder: &Folder| {
        let own = |command: &str, args: &[&str]| {
            let mut line = Command::new(if is_root() { "setpriv" } else { command });
            if is_root() {
                line.args(["--reuid=65534", "--regid=65534", "--clear-groups", command]);
            }
            line.args(args)
                .current_dir(folder.path())
                .stdin(Stdio::null());
            line
        };
        let init = path.with_file_name("initdb");
        let how = [
            "--auth=trust",
            "--username=postgres",
            "--no-locale",
            "--no-sync",
            "-D",
            "data",
        ];
        let made = own(init.to_str().unwrap(), &how).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let port = port.to_string();
        own(
            path.to_str().unwrap(),
            &["-D", "data", "-h", "127.0.0.1", "-k", "", "-F", "-p", &port],
        )
    };
    let Some((pid, holders)) = holders_of(test_name!(), "postgres", 1, command) else {
        return;
    };
    assert_eq!(named(&holders, pid), "postgres");
}
