//! [`HttpProbe`]: an HTTP/1.1 GET request, and the status that the server must answer with.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::str::FromStr;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use httparse::Response;
use portlease::{Diagnosis, Endpoint};
use socket2::SockRef;

use crate::limits::{HTTP_FALLBACK_DELAY, HTTP_HEAD_BYTES};
use crate::text::{escape, os_message};

/// A path to request, and the expected status. `None` accepts any status from 200 to 299.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpProbe {
    path: String,
    status: Option<u16>,
}

/// Why the text of an option is not a valid probe. clap prints this reason.
#[derive(Debug)]
pub(crate) struct InvalidProbe(String);

impl fmt::Display for InvalidProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidProbe {}

impl FromStr for HttpProbe {
    type Err = InvalidProbe;

    fn from_str(text: &str) -> Result<Self, InvalidProbe> {
        let invalid = |what: &str| {
            Err(InvalidProbe(format!(
                "{text:?} {what}: expected PATH or PATH=STATUS, as in /health or /health=204"
            )))
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (path, status) = match text.rsplit_once('=') {
            Some((path, status)) if is_number(status) => match status.parse() {
                Ok(status @ 100..=599) => (path, Some(status)),
                _ => return invalid("has a status that is not from 100 to 599"),
            },
            // A query may have `=`, and so may a folder of the path, as in /a=b/c.
            Some((path, status)) if !path.contains('?') && !status.contains(['/', '?']) => {
                return invalid("has a status that is not a number");
            }
            _ => (text, None),
        };
        if !path.starts_with('/') {
            return invalid("has no path that starts with /");
        }
        // A space or a line end in the path would change the request that is sent.
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return invalid("has a path with a character that must be percent-encoded");
        }
        Ok(HttpProbe {
            path: path.to_owned(),
            status,
        })
    }
}

/// A probe for `run --http`, such as `WEB:/health=204`, where `WEB` is the name of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedProbe {
    /// The name of the port. `None` means the first TCP port.
    pub(crate) name: Option<String>,
    pub(crate) probe: HttpProbe,
}

impl FromStr for NamedProbe {
    type Err = InvalidProbe;

    fn from_str(text: &str) -> Result<Self, InvalidProbe> {
        let (name, probe) = match text.split_once(':') {
            Some((name, probe)) if !name.contains('/') => (Some(name.to_owned()), probe),
            _ => (None, text),
        };
        let probe = probe.parse()?;
        Ok(NamedProbe { name, probe })
    }
}

/// Prints the request, such as `GET /health`.
impl fmt::Display for HttpProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GET {}", self.path)
    }
}

impl HttpProbe {
    /// Sends the request to the address of `target`. If `target` has no address or is `localhost`,
    /// sends it to 127.0.0.1, and also to ::1 if 127.0.0.1 fails or is slow. If no address answers
    /// with the expected status within `limit`, returns a description of the problem.
    ///
    /// `named` is the endpoint that the user named. The Host header contains the address of
    /// `named`. If `named` has no address, the header contains `localhost`, because some servers
    /// reject an IP address there.
    pub(crate) fn ask(
        &self,
        named: Endpoint,
        target: Endpoint,
        limit: Duration,
    ) -> Result<(), Problem> {
        let ends = Instant::now() + limit;
        let host = match named.socket_addr() {
            None => format!("localhost:{}", named.port),
            // The interface of a link-local address has a meaning on this machine only (RFC 6874),
            // so the header omits it.
            Some(address) => SocketAddr::new(address.ip(), address.port()).to_string(),
        };
        match target.socket_addr() {
            Some(address) => {
                // Problems print `shown`, which names the interface of a link-local address. The
                // text of `address` has only the index of the interface.
                let shown = Endpoint {
                    protocol: None,
                    ..target
                };
                self.ask_address(address, &shown.to_string(), &host, ends)
            }
            None => self.ask_loopbacks(target.port, &host, ends),
        }
    }

    /// Asks 127.0.0.1. If that fails or takes longer than [`HTTP_FALLBACK_DELAY`], asks ::1 too.
    fn ask_loopbacks(&self, port: u16, host: &str, ends: Instant) -> Result<(), Problem> {
        let (sender, receiver) = channel();
        let ask = |ip: IpAddr| {
            let address = SocketAddr::new(ip, port);
            let (probe, host, sender) = (self.clone(), host.to_owned(), sender.clone());
            let ask = move || {
                let answer = probe.ask_address(address, &address.to_string(), &host, ends);
                // If the other address has answered first, the receiver is gone, and the send
                // fails.
                let _sent = sender.send(answer);
            };
            let thread = std::thread::Builder::new()
                .name("request".to_owned())
                .spawn(ask);
            thread
                .map(drop)
                .map_err(|e| Problem::of_thread(&os_message(&e)))
        };
        ask(Ipv4Addr::LOCALHOST.into())?;
        let first = receiver.recv_timeout(HTTP_FALLBACK_DELAY);
        if let Ok(Ok(())) = first {
            return Ok(());
        }
        ask(Ipv6Addr::LOCALHOST.into())?;
        drop(sender);
        let mut problems: Vec<Problem> = first.ok().and_then(Result::err).into_iter().collect();
        for answer in receiver {
            match answer {
                Ok(()) => return Ok(()),
                Err(problem) => problems.push(problem),
            }
        }
        // If both problems are of the same kind, report the problem of 127.0.0.1.
        problems.sort_by_key(|problem| (problem.kind, problem.address));
        match problems.into_iter().next() {
            Some(problem) => Err(problem),
            None => Err(Problem::of_thread("the thread panicked")),
        }
    }

    /// Sends the request to `address`, which reports print as `shown`.
    fn ask_address(
        &self,
        address: SocketAddr,
        shown: &str,
        host: &str,
        ends: Instant,
    ) -> Result<(), Problem> {
        let ip = address.ip();
        let failed = |cause: io::Error, silence: ProblemKind| {
            let (kind, cause) = match cause.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    (silence, "no answer in time".to_owned())
                }
                _ => (ProblemKind::NoConnection, escape(&os_message(&cause))),
            };
            Problem::new(kind, ip, format!("{shown}: {cause}"))
        };
        let stream = connect(address, ends).map_err(|e| failed(e, ProblemKind::SilentConnect))?;
        let answer = request(stream, host, &self.path, ends);
        let answer = answer.map_err(|e| failed(e, ProblemKind::Silence))?;
        let Some(status) = answer else {
            let text = format!("{shown} did not answer in HTTP");
            return Err(Problem::new(ProblemKind::Answer, ip, text));
        };
        let (is_expected, expected) = match self.status {
            Some(expected) => (status == expected, expected.to_string()),
            None => ((200..300).contains(&status), "2xx".to_owned()),
        };
        if is_expected {
            return Ok(());
        }
        let text = format!("{shown} has answered {status}, but {expected} is expected");
        Err(Problem::new(ProblemKind::Answer, ip, text))
    }
}

/// Why an address has not answered as expected.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) kind: ProblemKind,
    address: IpAddr,
    pub(crate) text: String,
}

/// The kinds of problems. If two addresses fail, the problem whose kind comes first in this list is
/// reported, because it says more about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProblemKind {
    /// The server answered, but not as expected.
    Answer,
    /// A connection was made, but no answer arrived in time.
    Silence,
    /// The connect itself got no answer in time.
    SilentConnect,
    NoConnection,
}

impl Problem {
    fn new(kind: ProblemKind, address: IpAddr, text: String) -> Problem {
        Problem {
            kind,
            address,
            text,
        }
    }

    /// Whether no answer arrived in time.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self.kind, ProblemKind::Silence | ProblemKind::SilentConnect)
    }

    /// The problem of a request that was not sent, because an unrelated process might get it.
    ///
    /// `strangers` has a report on each address of the request. Each report says one of these:
    /// - neither `pid` nor a descendant of `pid` listens on the address
    /// - an unrelated process listens on the address too
    pub(crate) fn of_stranger(pid: u32, strangers: &[Diagnosis]) -> Problem {
        let list = |endpoints: Vec<Endpoint>| {
            let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
            endpoints
        };
        let shared = strangers.iter().filter(|of| of.is_shared_with_stranger());
        let shared: Vec<Endpoint> = shared.filter_map(Diagnosis::endpoint).collect();
        let text = if shared.is_empty() {
            let all = strangers.iter().filter_map(Diagnosis::endpoint).collect();
            format!("pid {pid} does not listen on {}", list(all).join(" or "))
        } else {
            let shared = list(shared).join(" and ");
            format!("another process, which pid {pid} did not start, also listens on {shared}")
        };
        Problem::new(ProblemKind::NoConnection, Ipv4Addr::LOCALHOST.into(), text)
    }

    fn of_thread(cause: &str) -> Problem {
        let text = format!("the thread that sends the request failed: {cause}");
        Problem::new(ProblemKind::NoConnection, Ipv4Addr::LOCALHOST.into(), text)
    }
}

fn connect(address: SocketAddr, ends: Instant) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, left(ends)?)?;
    // If the requested port is ephemeral and no socket has it, the kernel can choose this port as
    // the source port of the connection. TCP then connects the socket to itself. With a linger time
    // of 0, the close sends a reset, which leaves no TIME_WAIT.
    let local = stream.local_addr()?;
    if (local.ip(), local.port()) == (address.ip(), address.port()) {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        return Err(ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// Sends the request, and returns the status of the answer. Returns `None` if the answer is not
/// HTTP, ends early, or has no status in its first [`HTTP_HEAD_BYTES`].
fn request(
    mut stream: TcpStream,
    host: &str,
    path: &str,
    ends: Instant,
) -> io::Result<Option<u16>> {
    stream.set_write_timeout(Some(left(ends)?))?;
    let version = env!("CARGO_PKG_VERSION");
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: portlease/{version}\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left(ends)?))?;
        let read = match stream.read(&mut buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        answer.extend_from_slice(&buffer[..read]);
        match status_of(&answer) {
            Answer::Status(status) => return Ok(Some(status)),
            Answer::Unfinished if read > 0 && answer.len() < HTTP_HEAD_BYTES => {}
            Answer::Unfinished | Answer::Other => return Ok(None),
        }
    }
}

/// The time until `ends`. Fails with `TimedOut` if no time is left, because std rejects a socket
/// timeout of zero.
fn left(ends: Instant) -> io::Result<Duration> {
    let left = ends.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(left)
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Status(u16),
    /// The bytes may be the start of an HTTP answer, but contain no final status yet.
    Unfinished,
    /// The bytes are not HTTP.
    Other,
}

/// The length of a status line up to its status, as in `HTTP/1.1 200`.
const STATUS_END: usize = 12;

/// Finds the status in the bytes of an answer that have arrived so far. Skips interim answers, with
/// a status from 100 to 199, because a final answer follows them.
fn status_of(mut bytes: &[u8]) -> Answer {
    loop {
        // Only the status line matters, so the parser gets no room for headers. The parser may fail
        // at the first header, but has already set `code` by then. The parser also sets `code`
        // after three digits, before it rejects a fourth one with `Error::Status`.
        let mut response = Response::new(&mut []);
        let parsed = response.parse(bytes);
        let line = bytes.trim_ascii_start();
        match (response.code, parsed) {
            (_, Err(httparse::Error::Status)) => return Answer::Other,
            (Some(_), _) if line.len() <= STATUS_END => return Answer::Unfinished,
            (Some(100..=199), _) => {
                let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
                let Some(end) = end else {
                    return Answer::Unfinished;
                };
                bytes = &bytes[end + 4..];
            }
            (Some(status), _) => return Answer::Status(status),
            (None, Ok(_)) => return Answer::Unfinished,
            (None, Err(_)) => return Answer::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_read() {
        let probe = |path: &str, status| HttpProbe {
            path: path.to_owned(),
            status,
        };
        for (text, expected) in [
            ("/", probe("/", None)),
            ("/health=204", probe("/health", Some(204))),
            ("/a?b=c", probe("/a?b=c", None)),
            ("/a?b=1=200", probe("/a?b=1", Some(200))),
            ("/a=b/c", probe("/a=b/c", None)),
            ("/a=b?c", probe("/a=b?c", None)),
        ] {
            assert_eq!(text.parse::<HttpProbe>().unwrap(), expected, "{text}");
        }
        let named = "WEB:/a:b=200".parse::<NamedProbe>().unwrap();
        assert_eq!(named.name.as_deref(), Some("WEB"));
        assert_eq!(named.probe, probe("/a:b", Some(200)));
        let named = "/a:b".parse::<NamedProbe>().unwrap();
        assert_eq!((named.name, named.probe), (None, probe("/a:b", None)));
        for (text, reason) in [
            ("health", "has no path that starts with /"),
            ("", "has no path that starts with /"),
            ("/x=99", "has a status that is not from 100 to 599"),
            ("/x=99999999", "has a status that is not from 100 to 599"),
            ("/=abc", "has a status that is not a number"),
            ("/health=ok", "has a status that is not a number"),
            ("/health=", "has a status that is not a number"),
            ("/a b", "must be percent-encoded"),
            ("/a\r\nX: y", "must be percent-encoded"),
            ("/ä", "must be percent-encoded"),
        ] {
            let error = text.parse::<HttpProbe>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_status_is_found_in_every_part_of_an_answer() {
        let whole = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        let code_ends = whole.find("204").unwrap() + 3;
        for end in 0..=whole.len() {
            let answer = status_of(&whole.as_bytes()[..end]);
            match end > code_ends {
                true => assert_eq!(answer, Answer::Status(204), "{end}"),
                false => assert!(
                    matches!(answer, Answer::Unfinished | Answer::Status(204)),
                    "{end}: {answer:?}"
                ),
            }
        }
        for other in [
            "SSH-2.0-OpenSSH_9.2\r\n",
            "\u{15}\u{3}\u{1}",
            "HTTP/1.1 abc\r\n",
        ] {
            assert_eq!(status_of(other.as_bytes()), Answer::Other, "{other:?}");
        }
    }

    #[test]
    fn a_status_of_other_than_three_digits_is_not_http() {
        for line in [
            "HTTP/1.1 2000 x\r\n",
            "HTTP/1.1 200abc\r\n",
            "HTTP/1.1 20 x\r\n",
        ] {
            // The line may arrive in parts.
            for end in 0..=line.len() {
                let answer = status_of(&line.as_bytes()[..end]);
                assert!(
                    !matches!(answer, Answer::Status(_)),
                    "{line:?}, {end}: {answer:?}"
                );
            }
            assert_eq!(status_of(line.as_bytes()), Answer::Other, "{line:?}");
        }
        for line in [
            "HTTP/1.1 200\r\n",
            "HTTP/1.0 200 \n",
            "\r\nHTTP/1.1 200 OK\r\n",
        ] {
            assert_eq!(status_of(line.as_bytes()), Answer::Status(200), "{line:?}");
        }
    }
}
