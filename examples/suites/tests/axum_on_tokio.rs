//! axum under `#[tokio::test]`: the server runs on the test's own thread, so that nothing may block it.

use std::time::Duration;

use axum::{Router, routing::get};
use portlease::tokio::{wait_until_free, wait_until_listening};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SOON: Duration = Duration::from_secs(30);

fn app() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

async fn ask(addr: std::net::SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The first choice: the server is given its listener, which clients can connect to at once.
#[tokio::test]
async fn a_server_that_is_given_its_listener() {
    let p = portlease::reserve_port();
    let server = tokio::spawn(axum::serve(p.listen_tokio().unwrap(), app()).into_future());
    assert!(ask(p.addr()).await.unwrap().ends_with("hello"));
    server.abort();
}

/// A server that binds by itself, by an address it was configured with: it is waited for, and again after a restart.
#[tokio::test]
async fn a_server_that_binds_by_number_and_is_started_again() {
    async fn main(addr: String) -> std::io::Result<()> {
        axum::serve(TcpListener::bind(addr).await?, app()).await
    }

    let p = portlease::reserve_port();
    for _ in 0..3 {
        let server = tokio::spawn(main(p.addr().to_string()));
        wait_until_listening(&p, SOON).await.unwrap();
        assert!(ask(p.addr()).await.unwrap().ends_with("hello"));
        // An aborted task has its listener until the runtime comes round to it.
        server.abort();
        wait_until_free(&p, SOON).await.unwrap();
    }
}

/// What the application says of a service that is down: on a reserved port every connection is refused, at once.
#[tokio::test]
async fn a_service_that_is_down() {
    let down = portlease::reserve_port();
    let refused = ask(down.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
