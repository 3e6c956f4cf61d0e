//! Asks a keeper for a release.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use portlease::Endpoint;

use crate::keeper::messages::{RELEASED, release_address};

/// Asks a process to let the port go; `false` if it does not, or is no keeper.
pub(crate) fn request_release(keeper: u32, endpoint: Endpoint) -> io::Result<bool> {
    let stream = match release_address(keeper)
        .and_then(|release_address| UnixStream::connect_addr(&release_address))
    {
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
    let mut word = String::new();
    match BufReader::new(&stream).read_line(&mut word) {
        Ok(_) => Ok(word.trim_end() == RELEASED),
        // It ended at this moment, for another reason.
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(false),
        Err(e) => Err(e),
    }
}
