//! Windows: the request goes through the named pipe of the keeper.

use std::io;
use std::time::Instant;

use portlease::Endpoint;

use crate::failure::Failure;
use crate::keeper::messages::{RELEASED, release_pipe};
use crate::keeper::release::no_answer;
use crate::limits::{RELEASE_LINE_BYTES, RELEASE_TIMEOUT, remaining};
use crate::named_pipe::PipeStream;

/// Asks each process in `keepers` to release the port. Returns `true` if a process released the
/// port. Ignores a process that is not a keeper, that refuses, that does not hold the port, or that
/// exits before it answers.
pub(crate) fn request_release(keepers: &[u32], endpoint: Endpoint) -> Result<bool, Failure> {
    let mut released = false;
    for keeper in keepers {
        released |= request(*keeper, endpoint).map_err(|e| {
            let act = format_args!("ask pid {keeper} to release port {endpoint}");
            Failure::system(act, &e)
        })?;
    }
    Ok(released)
}

/// Always empty. Only a claim (a bound socket) can keep a port without a lock file, and on Windows
/// no claim does.
pub(crate) fn unrecorded_ports() -> Result<Vec<(Endpoint, u32)>, Failure> {
    Ok(Vec::new())
}

fn request(keeper: u32, endpoint: Endpoint) -> io::Result<bool> {
    match ask(keeper, endpoint) {
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Err(no_answer(keeper)),
        // The process is no keeper, belongs to another user, or has exited.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::BrokenPipe
            ) =>
        {
            Ok(false)
        }
        answer => answer,
    }
}

fn ask(keeper: u32, endpoint: Endpoint) -> io::Result<bool> {
    let started = Instant::now();
    let pipe = PipeStream::connect(&release_pipe(keeper), RELEASE_TIMEOUT)?;
    // Another process could have created the pipe before the keeper started.
    if pipe.server()? != keeper {
        return Ok(false);
    }
    let left = || remaining(RELEASE_TIMEOUT, started);
    pipe.send(&format!("{endpoint}\n"), left())?;
    let reply = pipe.receive(RELEASE_LINE_BYTES, left())?;
    Ok(reply.strip_suffix('\n') == Some(RELEASED))
}
