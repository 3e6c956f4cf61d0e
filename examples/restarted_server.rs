//! Starts a server program on a reserved port, and starts it again on the same number:
//! `cargo run --example restarted_server`.
//!
//! The server is this program again, with its address in an argument.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use portlease::{ReserveOptions, Server};

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(addr) = std::env::args().nth(1) {
        return serve(&addr);
    }
    // The next run of this program gets the same number, if the number is free then.
    let p = ReserveOptions::new().named("example").reserve()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(p.addr().to_string());

    let mut server = p.spawn(command, Duration::from_secs(30))?;
    println!("first:  {}", ask(&server)?);
    server.restart()?;
    println!("second: {}", ask(&server)?);
    server.kill()?;
    println!("killed: {:?}", ask(&server).map_err(|error| error.kind())); // refused at once
    server.restart()?;
    println!("third:  {}", ask(&server)?);
    Ok(server.stop()?.release()?)
}

fn ask(server: &Server) -> std::io::Result<String> {
    let mut answer = String::new();
    TcpStream::connect(server.addr())?.read_to_string(&mut answer)?;
    Ok(answer)
}

fn serve(addr: &str) -> Result<(), Box<dyn Error>> {
    for stream in TcpListener::bind(addr)?.incoming() {
        write!(stream?, "pid {} on {addr}", std::process::id())?;
    }
    Ok(())
}
