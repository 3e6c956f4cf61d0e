//! axum under `#[tokio::test]`: the server runs on the test's own thread, so no call may block it.

use std::time::Duration;

use axum::{Router, routing::get};
use portlease::tokio::{wait_until_free, wait_until_listening};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TIMEOUT: Duration = Duration::from_secs(30);

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

/// The preferred way: the server gets its listener, so clients can connect at once.
#[tokio::test]
async fn a_server_that_is_given_its_listener() {
    let p = portlease::reserve_port();
    let server = tokio::spawn(axum::serve(p.listen_tokio().unwrap(), app()).into_future());
    assert!(ask(p.addr()).await.unwrap().ends_with("hello"));
    server.abort();
}

/// A server that binds to its configured address. The test waits for it, also after each restart.
#[tokio::test]
async fn a_server_that_binds_by_number_and_is_started_again() {
    async fn main(addr: String) -> std::io::Result<()> {
        axum::serve(TcpListener::bind(addr).await?, app()).await
    }

    let p = portlease::reserve_port();
    for _ in 0..3 {
        let server = tokio::spawn(main(p.addr().to_string()));
        wait_until_listening(&p, TIMEOUT).await.unwrap();
        assert!(ask(p.addr()).await.unwrap().ends_with("hello"));
        // An aborted task keeps its listener until the runtime drops the task.
        server.abort();
        wait_until_free(&p, TIMEOUT).await.unwrap();
    }
}

/// Tests an application against a service that is down: a reserved port refuses every connection at
/// once.
#[tokio::test]
async fn a_service_that_is_down() {
    let down = portlease::reserve_port();
    let refused = ask(down.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
