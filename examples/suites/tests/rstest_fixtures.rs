//! rstest: a fixture owns the reservation and the server that runs on it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use portlease::{Reservation, ReserveOptions};
use rstest::{fixture, rstest};

/// An echo server and its port. Field order: the server ends before the reservation.
struct Echo {
    server: Option<JoinHandle<()>>,
    port: Reservation,
}

impl Echo {
    fn start(port: Reservation) -> Echo {
        let listener = TcpListener::bind(&port).unwrap();
        let server = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                if text == "stop" {
                    break;
                }
                stream.write_all(text.as_bytes()).unwrap();
            }
        });
        Echo {
            server: Some(server),
            port,
        }
    }

    fn send(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(&self.port).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.send("stop");
        self.server.take().map(JoinHandle::join);
        // A second panic would abort and hide the test's own failure.
        if !std::thread::panicking() {
            portlease::assert_port_free(&self.port);
        }
    }
}

/// The record has the source line of this fixture, whichever test uses it. The label identifies the
/// test.
#[fixture]
fn echo(#[default("echo")] label: &str) -> Echo {
    Echo::start(ReserveOptions::new().label(label).reserve().unwrap())
}

#[rstest]
#[case("hello")]
#[case("again")]
#[case("")]
fn a_server_for_each_case(echo: Echo, #[case] text: &str) {
    assert_eq!(echo.send(text), text);
}

#[rstest]
fn two_servers_in_one_test(#[with("primary")] echo: Echo, #[from(echo)] second: Echo) {
    assert_ne!(echo.port.port(), second.port.port());
    assert_eq!(echo.port.label(), Some("primary"));
    assert_eq!(
        (echo.send("1"), second.send("2")),
        ("1".to_owned(), "2".to_owned())
    );
}

/// A `#[once]` fixture is never dropped, so it keeps its port until the process ends. Under nextest
/// each test is a process, and has a port of its own.
#[fixture]
#[once]
fn down() -> Reservation {
    ReserveOptions::new()
        .label("nothing listens here")
        .reserve()
        .unwrap()
}

#[rstest]
fn a_port_that_refuses(down: &Reservation, #[values(1, 2)] _round: u8) {
    assert!(TcpStream::connect(down).is_err());
}
