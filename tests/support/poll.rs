//! Polling with a deadline.

use std::time::{Duration, Instant};

/// How long a test waits for an event that must happen. It is long because the other tests may keep
/// the machine busy. On an idle machine no test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

/// Polls until `state` returns `Ok`. Panics after `within`, with the last state that it returned.
pub(crate) fn eventually<T>(
    what: &str,
    within: Duration,
    mut state: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        match state() {
            Ok(value) => return value,
            Err(state) if Instant::now() >= deadline => {
                panic!("{what}: not within {within:?}; the last state seen: {state}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
