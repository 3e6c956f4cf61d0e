//! The tests that the README and the documentation pages show. A test of the repository compares
//! them with the pages.

use std::{net::TcpStream, process::Command, time::Duration};

#[test]
fn the_server_answers_after_a_restart() -> Result<(), Box<dyn std::error::Error>> {
    let p = portlease::reserve_port(); // a TCP port that no other process gets
    let mut command = Command::new("python3");
    command.args(["-m", "http.server", &p.to_string()]); // the server is started by number
    let mut server = p.spawn(command, Duration::from_secs(30))?; // returns when it listens
    TcpStream::connect(server.addr())?;
    server.restart()?; // on the same number
    TcpStream::connect(server.addr())?;
    Ok(()) // stops the server, then releases the port
}

#[tokio::test]
async fn the_router_answers() -> std::io::Result<()> {
    let p = portlease::reserve_port();
    let listener = p.listen_tokio()?; // feature `tokio`. To a server that binds, give p.addr()
    tokio::spawn(async { axum::serve(listener, axum::Router::new()).await });
    tokio::net::TcpStream::connect(p.addr()).await?;
    Ok(())
}

#[test]
#[serial_test::serial]
fn before() {
    let server = std::net::TcpListener::bind(("127.0.0.1", 17115)).unwrap();
    drop(server); // the test
}

// Now: also excludes other processes (under nextest every test is one) and other checkouts.
#[test]
fn now() {
    let minute = std::time::Duration::from_secs(60);
    let p = portlease::ReserveOptions::new()
        .port(17115)
        .wait(minute)
        .reserve()
        .unwrap();
    let server = p.listen().unwrap();
    drop(server); // the test
}
