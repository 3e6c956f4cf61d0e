//! Text from the operating system and from other processes, made safe to print.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;

use portlease::ToEndpoint;

/// The number of this error is the same on every Unix.
const EMFILE: i32 = 24;

/// The system's message for an error, to print after a colon. The message starts in lower case and
/// lacks "(os error N)". For EMFILE it also says what to do.
pub(crate) fn os_message(cause: &io::Error) -> String {
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    let first = chars.next().into_iter().flat_map(char::to_lowercase);
    let mut message: String = first.chain(chars).collect();
    if cfg!(unix) && cause.raw_os_error() == Some(EMFILE) {
        message += ": this process has reached its limit of file descriptors (raise it with \
                    ulimit -n)";
    }
    message
}

/// The address as the library's reports print it. An IPv4-mapped address is printed as IPv4, and a
/// link-local address with the name of its interface.
pub(crate) fn address(addr: SocketAddr) -> String {
    let mapped = match addr {
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped(),
        SocketAddr::V4(_) => None,
    };
    let addr = mapped.map_or(addr, |ip| SocketAddr::new(ip.into(), addr.port()));
    match addr.to_endpoint() {
        Ok(endpoint) => endpoint.to_string(),
        Err(_) => addr.to_string(),
    }
}

/// Escapes control characters, and characters that mark, embed, override or isolate a direction.
/// Unescaped, the name of another process could move the cursor or forge a line.
pub(crate) fn escape(text: &str) -> String {
    let sets_direction = |c: char| {
        matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || sets_direction(c) {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
    }
    out
}

/// A command line as a user types it. Quotes each argument that a shell would otherwise change.
pub(crate) fn shell_words(arguments: &[OsString]) -> String {
    let quoted = |argument: &OsString| {
        let argument = argument.to_string_lossy();
        let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+".contains(c);
        if !argument.is_empty() && argument.chars().all(is_plain) {
            argument.into_owned()
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    };
    arguments.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// The first `chars` characters of the text, and `…` if the text is longer.
pub(crate) fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
