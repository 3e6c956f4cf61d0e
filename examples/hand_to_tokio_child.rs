//! Hands a listening socket to a child that tokio starts:
//! `cargo run --example hand_to_tokio_child`.
//!
//! `tokio::process::Command::as_std_mut` returns the inner command. The child is this program
//! again.

use std::error::Error;
use std::io::Write;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::var_os("LISTEN_FDS").is_some() {
        let listener = listenfd::ListenFd::from_env()
            .take_tcp_listener(0)?
            .ok_or("no listener was passed")?;
        let (mut stream, _) = listener.accept()?;
        return Ok(write!(stream, "hello from pid {}", std::process::id())?);
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(parent())
}

async fn parent() -> Result<(), Box<dyn Error>> {
    let p = portlease::reserve_port();
    let mut command = Command::new(std::env::current_exe()?);
    p.pass_to(command.as_std_mut())?;
    let mut child = command.spawn()?;
    drop(command); // the command holds the socket too

    // The port listens already, so no wait is needed.
    let mut answer = String::new();
    TcpStream::connect(p.addr())
        .await?
        .read_to_string(&mut answer)
        .await?;
    println!("the client received: {answer}");
    if child.wait().await?.success() {
        Ok(p.release()?)
    } else {
        Err("the child failed".into())
    }
}
