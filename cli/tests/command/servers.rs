//! Real servers under `portlease run`: each answers on its port, and the end of the server releases
//! the port.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::program::{Running, ask, becomes_free, line_in, portlease};
use crate::support::program::{installed, path_of};
use crate::support::{DEADLINE, Folder, eventually, is_root, need};

/// Runs `PROGRAM ARGS`, sends it a request, and ends it by a signal to portlease.
fn serves(program: &str, args: &[&str], folder: &Folder, question: &[u8], answer: &str) {
    let path = path_of(program).unwrap();
    let file = folder.path().join("port");
    let mut command: Command = portlease(&["run", "--wait-listening=1m", "--"]);
    // The shell writes the number to a file, and then execs the server.
    command
        .args([
            "sh",
            "-c",
            "echo $PORT > \"$FILE\"; exec \"$@\"",
            "sh",
            path.to_str().unwrap(),
        ])
        .args(args);
    command
        .env("FILE", &file)
        .env("PORTLEASE_DIR", folder.locks())
        .current_dir(folder.path());
    let mut run = Running::start(&mut command);
    let port: u16 = line_in(&file).parse().unwrap();
    let text = eventually("an answer", DEADLINE, || match ask(port, question) {
        Ok(text) => Ok(text),
        Err(e) if run.runs() => Err(e.to_string()),
        Err(_) => panic!("{program} has ended"),
    });
    assert!(text.contains(answer), "{text}");
    run.signal(Signal::TERM);
    let ran = run.finish();
    assert!(matches!(ran.shell_code(), 0 | 143), "{ran:#?}");
    becomes_free_but_for_time_wait(port, folder);
}

/// Waits for the release. A server that closes first leaves TIME_WAIT, which no process owns.
fn becomes_free_but_for_time_wait(port: u16, folder: &Folder) {
    eventually("the port is released", DEADLINE, || {
        let output = crate::program::finish(
            portlease(&["who", "--json", &format!("{port}/tcp")])
                .env("PORTLEASE_DIR", folder.locks()),
        );
        let answer = output.json();
        let rows = answer["holders"].as_array().unwrap();
        let gone = rows.iter().all(|row| row["state"] == "time_wait")
            && answer["leases"] == serde_json::json!([]);
        if gone {
            Ok(())
        } else {
            Err(answer.to_string())
        }
    });
}

const GET: &[u8] = b"GET /hello HTTP/1.0\r\nHost: x\r\n\r\n";

#[test]
fn redis_serves_on_its_port() {
    need!(installed("redis-server"));
    let args = [
        "--port",
        "{PORT}",
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--daemonize",
        "no",
    ];
    serves(
        "redis-server",
        &args,
        &Folder::new(),
        b"PING\r\nQUIT\r\n",
        "+PONG",
    );
}

#[test]
fn nginx_serves_on_its_port() {
    need!(installed("nginx"));
    let folder = Folder::new();
    let user = if is_root() { "user root; " } else { "" };
    // nginx reads the port from its configuration, so the script makes the configuration from a
    // template.
    let conf = format!(
        "{user}daemon off; worker_processes 1; pid nginx.pid; error_log stderr; \
         events {{}} http {{ access_log off; client_body_temp_path b; proxy_temp_path p; \
         fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s; \
         server {{ listen 127.0.0.1:NUMBER; return 200 \"hello from nginx\"; }} }}"
    );
    write(&folder, "template", &conf);
    write(
        &folder,
        "start",
        "sed s/NUMBER/$1/ template > nginx.conf; exec nginx -e stderr -c nginx.conf -p .",
    );
    let path = path_of("nginx").unwrap();
    let script = format!("PATH=$PATH:{}; . ./start", path.parent().unwrap().display());
    serves(
        "sh",
        &["-c", &script, "sh", "{PORT}"],
        &folder,
        GET,
        "hello from nginx",
    );
}

#[test]
fn pythons_http_server_serves_on_its_port() {
    need!(installed("python3"));
    let folder = Folder::new();
    write(&folder, "hello", "hello from python");
    serves(
        "python3",
        &["-m", "http.server", "--bind", "127.0.0.1", "{PORT}"],
        &folder,
        GET,
        "hello from python",
    );
}

#[test]
fn node_serves_on_its_port() {
    need!(installed("node"));
    let serve = "require('http').createServer((q, a) => a.end('hello from node'))\
                 .listen(process.env.PORT, '127.0.0.1')";
    serves(
        "node",
        &["-e", serve],
        &Folder::new(),
        GET,
        "hello from node",
    );
}

fn write(folder: &Folder, name: &str, text: &str) {
    std::fs::write(Path::join(folder.path(), name), text).unwrap();
}

#[test]
fn killing_the_server_releases_the_port() {
    need!(installed("python3"));
    let folder = Folder::new();
    let file = folder.path().join("port");
    let serve = "import os, socket, time; s = socket.create_server(('127.0.0.1', {PORT})); \
                 open(os.environ['FILE'], 'w').write('%d %d\\n' % ({PORT}, os.getpid())); \
                 time.sleep(600)";
    let mut command = portlease(&["run", "--", "python3", "-c", serve]);
    let run = Running::start(
        command
            .env("FILE", &file)
            .env("PORTLEASE_DIR", folder.locks()),
    );
    let line = line_in(&file);
    let (port, pid) = line.split_once(' ').unwrap();
    crate::program::kill(pid.parse().unwrap());
    run.finish().killed_by(rustix::process::Signal::KILL);
    becomes_free(port.parse().unwrap(), &folder);
}
