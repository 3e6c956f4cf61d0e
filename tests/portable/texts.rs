//! What errors say: one line, lower case, act and operand first.

use portlease::{ErrorKind, ReserveOptions};

use crate::agent::Agent;
use crate::support::{Folder, Launch};

#[test]
fn bad_operands_are_named() {
    let refused = |options: ReserveOptions| options.reserve().unwrap_err();
    #[expect(clippy::reversed_empty_ranges, reason = "an empty range is the point")]
    let empty = ReserveOptions::new().range(9..=3);
    for (options, text) in [
        (ReserveOptions::new().port(0), "port 0 names no port"),
        (empty, "range 9-3 is empty"),
        (ReserveOptions::new().range(7..=7).exclude([7]), "range 7-7 holds only excluded ports"),
    ] {
        let error = refused(options);
        assert_eq!(error.kind(), ErrorKind::InvalidPort);
        assert!(error.to_string().starts_with(text), "{error}");
    }
    let error = portlease::who_holds("seventy").unwrap_err();
    assert!(error.to_string().starts_with("\"seventy\" does not name a port"), "{error}");
}

#[test]
fn a_used_up_range_is_counted() {
    let taken = ReserveOptions::new().reserve_block(3).unwrap();
    let range = taken[0].port()..=taken[2].port();
    let error = ReserveOptions::new().range(range.clone()).reserve().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFreePort);
    let expected = format!("cannot reserve a port from {}-{}: 3 tried: ", range.start(), range.end());
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[test]
fn variables_are_named_when_they_make_no_sense() {
    let folder = Folder::new();
    let mut agent = Agent::of(Launch::new("agent", "locks".as_ref()));
    let answer = agent.command("reserve");
    assert!(answer.starts_with("refused Lease cannot use the lock folder \"locks\""), "{answer}");
    assert!(answer.contains("expected an absolute path in PORTLEASE_DIR"), "{answer}");
    let launch = Launch::new("agent", &folder.locks()).variable("PORTLEASE_RANGE", "many");
    let answer = Agent::of(launch).command("reserve");
    assert!(answer.starts_with("refused InvalidPort PORTLEASE_RANGE is \"many\""), "{answer}");
    let launch = Launch::new("agent", &folder.locks()).variable("PORTLEASE_RANGE", "20000-20999");
    let port = Agent::of(launch).reserve("")[0];
    assert!((20000..=20999).contains(&port));
}
