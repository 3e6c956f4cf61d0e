//! Sends the request of `portlease release` to a keeper (the process that holds the ports).

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use portlease::Endpoint;

use crate::keeper::messages::{RELEASED, release_address};

/// Asks the process `keeper` to release a port. Returns `false` if it is not a keeper, refuses,
/// does not hold the port, or exits before it answers.
pub(crate) fn request_release(keeper: u32, endpoint: Endpoint) -> io::Result<bool> {
    let stream =
        match release_address(keeper).and_then(|address| UnixStream::connect_addr(&address)) {
            Ok(stream) => stream,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(false);
            }
            Err(e) => return Err(e),
        };
    (&stream).write_all(format!("{endpoint}\n").as_bytes())?;
    let mut reply = String::new();
    match BufReader::new(&stream).read_line(&mut reply) {
        Ok(_) => Ok(reply.trim_end() == RELEASED),
        // The keeper exited before it read the request, so it did not handle it.
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(false),
        Err(e) => Err(e),
    }
}
