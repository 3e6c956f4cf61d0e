//! Real servers of other projects, started on reserved ports.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use portlease::Reservation;

mod companions;
mod inherit;
mod owner;
mod postgresql;
mod restart;
mod unclaimed;

fn http_get(p: &Reservation) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(p)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.is_empty() {
        Err(std::io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(text)
    }
}
