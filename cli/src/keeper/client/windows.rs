//! Windows: a keeper (a process that holds ports) accepts requests on a named pipe.

use std::io;

use crate::limits::RELEASE_TIMEOUT;
use crate::named_pipe::PipeStream;

/// The path of the pipe on which a keeper accepts release requests.
pub(crate) fn release_pipe(keeper: u32) -> String {
    format!(r"\\.\pipe\portlease-keeper-{keeper}")
}

/// Whether the process is a keeper (it holds ports) that accepts release requests of this user.
pub(crate) fn can_release(pid: u32) -> bool {
    // If this connection fails, `release` cannot reach the keeper either.
    connect(pid).is_ok_and(|pipe| pipe.is_some())
}

/// Connects to the pipe of a keeper. Returns `None` if the pipe belongs to another process: before
/// the keeper starts, any process can create a pipe with this name.
pub(crate) fn connect(keeper: u32) -> io::Result<Option<PipeStream>> {
    let pipe = PipeStream::connect(&release_pipe(keeper), RELEASE_TIMEOUT)?;
    Ok((pipe.server()? == keeper).then_some(pipe))
}
