//! Hands a listening socket to a child process, systemd style: `cargo run --example hand_to_child`.
//!
//! The child is this program again. With `LISTEN_FDS` in its environment it serves on the inherited
//! socket. The port is held at all times, and a client can connect before the child is ready.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::var_os("LISTEN_FDS").is_some() {
        return serve();
    }
    let p = portlease::ReserveOptions::new().label("web").reserve()?;
    let mut command = Command::new(std::env::current_exe()?);
    p.pass_to(&mut command)?;
    let mut client = TcpStream::connect(&p)?; // the backlog holds it until the child accepts
    let mut child = command.spawn()?;
    drop(command); // the command holds the socket too

    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    println!("the client received: {answer}");
    if child.wait()?.success() {
        Ok(p.release()?)
    } else {
        Err("the child failed".into())
    }
}

fn serve() -> Result<(), Box<dyn Error>> {
    let mut inherited = listenfd::ListenFd::from_env();
    let listener = inherited
        .take_tcp_listener(0)?
        .ok_or("no listener was passed")?;
    let (mut stream, _) = listener.accept()?;
    write!(stream, "hello from pid {}", std::process::id())?;
    Ok(())
}
