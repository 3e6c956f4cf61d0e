//! Waits that do not block the runtime's thread, on which the server runs.

use std::time::{Duration, Instant};

use portlease::tokio::{wait_until_free, wait_until_listening};
use portlease::{ErrorKind, reserve_port};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::support::{DEADLINE, print_line, test_name};

/// The longest time that other tasks could not run during `wait`, measured in steps of a
/// millisecond.
async fn longest_block<T>(wait: impl Future<Output = T>) -> (T, Duration) {
    let longest = std::rc::Rc::new(std::cell::Cell::new(Duration::ZERO));
    let seen = longest.clone();
    let other = async move {
        let mut last = Instant::now();
        loop {
            sleep(Duration::from_millis(1)).await;
            seen.set(seen.get().max(last.elapsed()));
            last = Instant::now();
        }
    };
    let value = tokio::select! {
        biased;
        // Polled first, so that it notices a wait that never yields.
        () = other => unreachable!("the other task has no end"),
        value = wait => value,
    };
    // The step during which the wait ended is not measured.
    (value, longest.get())
}

#[tokio::test]
async fn a_listener_that_does_not_stay_is_not_explained_by_the_blocked_thread() {
    let p = reserve_port();
    let server = p.listen().unwrap();
    let (steady, at_most) = (Duration::from_secs(60), Duration::from_millis(50));
    let error = portlease::wait_until_all_listening([&p], steady, at_most).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let text = format!("{error:?}");
    assert!(!text.contains("portlease::tokio"), "{text}");
    drop(server);
}

#[tokio::test]
async fn a_server_on_the_same_thread_is_waited_for() {
    let p = reserve_port();
    let addr = p.addr();
    let server = tokio::spawn(async move {
        sleep(Duration::from_millis(5)).await;
        TcpListener::bind(addr).await.unwrap()
    });
    // The control: a wait that blocks the thread times out, and reports the likely cause.
    let error = p
        .wait_until_listening(Duration::from_millis(50))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(
        format!("{error:?}").contains("await portlease::tokio::wait_until_listening instead"),
        "{error:?}"
    );

    // A wait for the own process is a wait for a task too.
    let error = p
        .wait_for_pid(std::process::id(), Duration::from_millis(50))
        .unwrap_err();
    let text = format!("{error:?}");
    assert!(
        text.contains("help: start the server if it does not run; this wait blocks its thread")
            && text.contains("await portlease::tokio::wait_until_listening instead"),
        "{text}"
    );

    wait_until_listening(&p, DEADLINE).await.unwrap();
    assert_eq!(server.await.unwrap().local_addr().unwrap(), p.addr());
}

#[tokio::test]
async fn a_listener_is_noticed_within_milliseconds() {
    let mut took = Vec::new();
    for _ in 0..50 {
        let p = reserve_port();
        let addr = p.addr();
        let server = tokio::spawn(async move {
            sleep(Duration::from_millis(5)).await;
            (TcpListener::bind(addr).await.unwrap(), Instant::now())
        });
        wait_until_listening(&p, DEADLINE).await.unwrap();
        let noticed = Instant::now();
        let (listener, listens) = server.await.unwrap();
        took.push(noticed.saturating_duration_since(listens));
        // The wait did not connect.
        assert!(timeout(Duration::ZERO, listener.accept()).await.is_err());
    }
    took.sort();
    print_line(&format!(
        "{}: median {:?}, slowest {:?}",
        test_name!(),
        took[25],
        took[49]
    ));
    assert!(took[25] < Duration::from_millis(50), "{took:?}");
}

#[tokio::test]
async fn other_tasks_run_while_a_wait_times_out() {
    const AT_MOST: Duration = Duration::from_millis(500);
    let p = reserve_port();
    let (error, block) = longest_block(wait_until_listening(&p, AT_MOST)).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(block < AT_MOST / 2, "{block:?}");

    let server = p.listen_tokio().unwrap();
    let (error, held) = longest_block(wait_until_free(&p, AT_MOST)).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(held < AT_MOST / 2, "{held:?}");

    // The control: a wait that blocks the thread stops the other tasks until it ends.
    let blocking = async {
        sleep(Duration::from_millis(5)).await;
        let error = p.wait_until_free(AT_MOST);
        // Yields once more, so that the other task measures how long it was blocked.
        sleep(Duration::from_millis(5)).await;
        error
    };
    let (error, blocked) = longest_block(blocking).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(blocked >= AT_MOST, "{blocked:?}");
    print_line(&format!(
        "{}: blocked for {block:?}, {held:?}; the control for {blocked:?}",
        test_name!()
    ));
    drop(server);
}

#[tokio::test]
async fn a_wait_that_times_out_does_not_blame_the_runtime() {
    let p = reserve_port();
    let begun = Instant::now();
    let error = wait_until_listening(&p, Duration::from_millis(30))
        .await
        .unwrap_err();
    assert!(begun.elapsed() >= Duration::from_millis(30));
    let text = format!("{error:?}");
    assert!(
        text.starts_with(&format!(
            "timed out after 30 ms: port 127.0.0.1:{p}/tcp is not listening: "
        )),
        "{text}"
    );
    assert!(
        text.contains("\nhelp: ") && !text.contains("async runtime"),
        "{text}"
    );

    let zero = wait_until_listening(&p, Duration::ZERO).await.unwrap_err();
    assert_eq!(zero.kind(), ErrorKind::TimedOut);
    for error in [
        wait_until_listening("x", DEADLINE).await,
        wait_until_free("x", DEADLINE).await,
    ] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidPort);
    }
}

#[tokio::test]
async fn the_listener_of_an_aborted_task_is_waited_for() {
    let p = reserve_port();
    let listener = p.listen_tokio().unwrap();
    let server = tokio::spawn(async move {
        let _listener = listener;
        std::future::pending::<()>().await;
    });
    server.abort();
    // The control: the runtime has not dropped the task yet.
    assert!(!portlease::is_port_free(&p));
    wait_until_free(&p, DEADLINE).await.unwrap();
    portlease::assert_port_free(&p);
    drop(p.listen_tokio().unwrap());
}

#[tokio::test]
async fn a_wait_ends_when_it_is_dropped() {
    let p = reserve_port();
    let server = p.listen_tokio().unwrap();
    let begun = Instant::now();
    let short = Duration::from_millis(20);
    assert!(timeout(short, wait_until_free(&p, DEADLINE)).await.is_err());
    drop(server);
    assert!(
        timeout(short, wait_until_listening(&p, DEADLINE))
            .await
            .is_err()
    );
    assert!(begun.elapsed() < DEADLINE / 2, "{:?}", begun.elapsed());
    // The port can be used as before.
    drop(p.listen_tokio().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_wait_lasts_as_long_by_the_real_clock_while_tokios_is_paused() {
    let p = reserve_port();
    let (begun, at_most) = (Instant::now(), Duration::from_millis(50));
    assert_eq!(
        wait_until_listening(&p, at_most).await.unwrap_err().kind(),
        ErrorKind::TimedOut
    );
    assert!(begun.elapsed() >= at_most);
    let addr = p.addr();
    let server = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        std::net::TcpListener::bind(addr).unwrap()
    });
    wait_until_listening(&p, DEADLINE).await.unwrap();
    drop(server.join().unwrap());
    wait_until_free(&p, DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_wait_can_be_a_task_of_its_own() {
    let p = reserve_port();
    let listening = tokio::spawn(wait_until_listening(p.port(), DEADLINE));
    let server = p.listen_tokio().unwrap();
    listening.await.unwrap().unwrap();
    let free = tokio::spawn(wait_until_free(p.addr(), DEADLINE));
    drop(server);
    free.await.unwrap().unwrap();
}

/// Runs only on systems where the wait reads the socket table and needs no other thread.
#[cfg(any(target_os = "linux", windows))]
#[test]
fn a_server_that_takes_the_only_thread_for_blocking_work_is_waited_for() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap()
        .block_on(async {
            let p = reserve_port();
            let addr = p.addr();
            let server = tokio::task::spawn_blocking(move || {
                let listener = std::net::TcpListener::bind(addr)?;
                listener.accept()
            });
            wait_until_listening(&p, DEADLINE).await.unwrap();
            drop(std::net::TcpStream::connect(addr).unwrap());
            server.await.unwrap().unwrap();
        });
}
