//! Windows: the request goes through the named pipe of the keeper.

use std::io;
use std::time::Instant;

use portlease::Endpoint;

use crate::failure::Failure;
use crate::keeper::client::{connect, no_answer};
use crate::keeper::release::released;
use crate::limits::{RELEASE_LINE_BYTES, RELEASE_TIMEOUT, remaining};

/// Asks each process in `keepers` to release the port. Returns the released endpoints: a
/// reservation of a number for TCP and UDP has two. The function ignores these processes:
///
/// - a process that is no keeper of this user
/// - a process that exits before it answers
/// - a keeper that does not hold the port
pub(crate) fn request_release(
    keepers: &[u32],
    endpoint: Endpoint,
) -> Result<Vec<Endpoint>, Failure> {
    let mut all = Vec::new();
    for keeper in keepers {
        let answer = request(*keeper, endpoint).map_err(|e| {
            let act = format_args!("ask pid {keeper} to release port {endpoint}");
            Failure::system(act, &e)
        })?;
        all.extend(released(&answer));
    }
    Ok(all)
}

/// Always empty. Only a claim (a bound socket) can keep a port without a lock file, and portlease
/// makes no claims on Windows.
pub(crate) fn unrecorded_ports() -> Result<Vec<(Endpoint, u32)>, Failure> {
    Ok(Vec::new())
}

/// The answer of a keeper. Empty if the process is no keeper of this user, or exits before it
/// answers.
fn request(keeper: u32, endpoint: Endpoint) -> io::Result<String> {
    match ask(keeper, endpoint) {
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Err(no_answer(keeper)),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::BrokenPipe
            ) =>
        {
            Ok(String::new())
        }
        answer => answer,
    }
}

fn ask(keeper: u32, endpoint: Endpoint) -> io::Result<String> {
    let started = Instant::now();
    let Some(pipe) = connect(keeper)? else {
        return Ok(String::new());
    };
    let left = || remaining(RELEASE_TIMEOUT, started);
    pipe.send(&format!("{endpoint}\n"), left())?;
    let reply = pipe.receive(RELEASE_LINE_BYTES, left())?;
    // An answer without a newline at its end is incomplete, and counts as no answer.
    Ok(reply.strip_suffix('\n').unwrap_or_default().to_owned())
}
