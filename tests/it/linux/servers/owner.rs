//! Real servers. While they run, reports name their processes. When they end, their ports are free.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use portlease::{Holders, Reservation, reserve_port};

use super::postgresql;
use crate::support::program::{Program, installed, path_of};
use crate::support::{DEADLINE, Folder, eventually, need, skip, test_name};

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
    let stop = match program {
        "postgres" => format!("help: stop pid {pid} with kill -INT {pid},"),
        _ => format!("help: stop pid {pid},"),
    };
    assert!(text.contains(&stop), "{text}");
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

/// Makes a database in the folder, and returns the command of its server.
fn prepared(folder: &Folder, port: u16) -> Command {
    postgresql::make_database(folder.path());
    postgresql::server(&port.to_string())
}

#[test]
fn postgresql_of_another_user_is_named() {
    let command = |_: &PathBuf, port, folder: &Folder| prepared(folder, port);
    let Some((pid, holders)) = holders_of(test_name!(), "postgres", 1, command) else {
        return;
    };
    assert_eq!(named(&holders, pid), "postgres");
}

/// After SIGTERM, PostgreSQL waits until its clients disconnect.
#[test]
fn postgresql_with_a_client_is_stopped_as_the_remedy_says() {
    need!(installed("postgres"), installed("initdb"));
    let p = reserve_port();
    let folder = Folder::new();
    let mut command = prepared(&folder, p.port());
    command.current_dir(folder.path());
    let mut server = Program::start(command, folder);
    let pid = server.process.id();
    p.wait_for(&mut server.process, DEADLINE).unwrap();
    let client = eventually("the database accepts a client", DEADLINE, || {
        client_of_postgresql(&p).map_err(|e| e.to_string())
    });
    let help = portlease::check_port_free(&p).unwrap_err().help().unwrap();
    let signal = |signal: &str| {
        let status = Command::new("kill")
            .args([signal, &pid.to_string()])
            .status();
        assert!(status.unwrap().success());
    };
    // The control.
    signal("-TERM");
    p.wait_until_free(Duration::from_millis(500)).unwrap_err();
    assert!(
        help.starts_with(&format!("stop pid {pid} with kill -INT {pid}, or ")),
        "{help}"
    );
    signal("-INT");
    p.wait_until_free(DEADLINE).unwrap();
    drop(client);
}

/// Logs in, and waits until the database is ready for a query.
fn client_of_postgresql(p: &Reservation) -> std::io::Result<TcpStream> {
    let mut client = TcpStream::connect(p)?;
    client.set_read_timeout(Some(DEADLINE))?;
    client.write_all(&postgresql::startup())?;
    let mut answer = Vec::new();
    // The message ReadyForQuery: `Z`, its length 5, and the state idle.
    while !answer.ends_with(b"Z\0\0\0\x05I") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        answer.extend(byte);
    }
    Ok(client)
}
