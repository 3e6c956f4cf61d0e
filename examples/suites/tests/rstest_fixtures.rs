//! rstest: a fixture owns its reservation, beside the server that runs on it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use portlease::{Reservation, ReserveOptions};
use rstest::{fixture, rstest};

/// A server that says back what it is told. Both end with the test, the server first.
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

    fn say(&self, text: &str) -> String {
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
        self.say("stop");
        self.server.take().map(JoinHandle::join);
        // A test that has failed already says what it has to say.
        if !std::thread::panicking() {
            portlease::assert_port_free(&self.port);
        }
    }
}

/// The line that a record tells is this one, whichever test asked: the label says more.
#[fixture]
fn echo(#[default("echo")] label: &str) -> Echo {
    Echo::start(ReserveOptions::new().label(label).reserve().unwrap())
}

#[rstest]
#[case("hello")]
#[case("again")]
#[case("")]
fn a_server_for_each_case(echo: Echo, #[case] text: &str) {
    assert_eq!(echo.say(text), text);
}

#[rstest]
fn two_servers_in_one_test(#[with("primary")] echo: Echo, #[from(echo)] second: Echo) {
    assert_ne!(echo.port.port(), second.port.port());
    assert_eq!(echo.port.label(), Some("primary"));
    assert_eq!(
        (echo.say("1"), second.say("2")),
        ("1".to_owned(), "2".to_owned())
    );
}

/// A fixture that is made once is never dropped, and so keeps its port to the end of the process. Under nextest each
/// test is a process, and has one of its own.
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
