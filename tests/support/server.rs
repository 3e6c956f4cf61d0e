//! A server in a helper process. It is started by port number, as users of a reserved port do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::args::Args;
use super::helper::{self, Helper, Launch};

/// The helper process: `port=N`. It sends its pid to each client. It ends when its input is closed;
/// with the argument `stay` it runs until it is killed.
pub(crate) fn run(args: &Args) {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, args.number("port").unwrap())) {
        Ok(listener) => listener,
        Err(e) => return helper::reply(&format!("refused {e}")),
    };
    helper::reply("up");
    // Connections stay open until the process ends, in whichever way.
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream
                .write_all(format!("{}\n", std::process::id()).as_bytes())
                .unwrap();
            open.push(stream);
        }
    });
    while helper::next_line().is_some() {}
    while args.get("stay").is_some() {
        std::thread::park();
    }
}

/// The command that starts the helper process with `stay`.
pub(crate) fn command(port: u16) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(helper::LIBTEST_ARGS)
        .env(helper::NAME, "server")
        .env(helper::ARGS, format!("port={port} stay"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Starts the helper process. It listens when this returns.
pub(crate) fn start(locks: &Path, port: u16) -> Helper {
    let mut server = Launch::new("server", locks)
        .args(format!("port={port}"))
        .start();
    assert_eq!(server.receive(), "up");
    server
}

/// Connects, and returns the connection and the pid that the server sent.
pub(crate) fn connect(addr: SocketAddr) -> (TcpStream, u32) {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(10)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut text = String::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        text.push(char::from(byte[0]));
    }
    (stream, text.parse().unwrap())
}
