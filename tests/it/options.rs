//! Every option of a reservation.

use std::collections::BTreeSet;

use portlease::{ErrorKind, ReserveOptions};

use crate::support::ports::non_ephemeral_ports;

fn port_of(result: portlease::Result<portlease::Reservation>) -> u16 {
    result.unwrap().port()
}

#[test]
fn reserved_ports_come_from_the_range() {
    let ports = non_ephemeral_ports(20);
    let (low, high) = (ports[0], ports[19]);
    for _ in 0..20 {
        let port = port_of(ReserveOptions::new().range(low..=high).reserve());
        assert!((low..=high).contains(&port), "{port}");
        let port = port_of(ReserveOptions::new().range(low..high).reserve());
        assert!((low..high).contains(&port), "{port}");
    }
    let port = port_of(ReserveOptions::new().range(60000..).reserve());
    assert!(port >= 60000, "{port}");
}

#[test]
fn preferred_ports_come_first_in_order_and_others_if_none_is_free() {
    let ports = non_ephemeral_ports(3);
    let prefer = || ReserveOptions::new().prefer([ports[2], ports[0]]);
    let first = prefer().reserve().unwrap();
    assert_eq!(first.port(), ports[2]);
    let second = prefer().reserve().unwrap();
    assert_eq!(second.port(), ports[0]);
    let third = prefer().reserve().unwrap();
    assert!(!ports.contains(&third.port()), "{third}");
    // A preferred port need not be in the range.
    drop(first);
    assert_eq!(port_of(prefer().range(30000..=30100).reserve()), ports[2]);
}

#[test]
fn excluded_ports_are_never_reserved() {
    let ports = non_ephemeral_ports(8);
    let (low, high) = (ports[0], ports[7]);
    let but_one = || {
        ReserveOptions::new()
            .range(low..=high)
            .exclude(ports[1..].iter().copied())
    };
    for _ in 0..10 {
        assert_eq!(port_of(but_one().reserve()), low);
    }
    assert_ne!(
        port_of(ReserveOptions::new().prefer([low]).exclude([low]).reserve()),
        low
    );
}

#[test]
fn many_are_distinct_and_all_or_none() {
    let many = ReserveOptions::new().reserve_many(20).unwrap();
    let distinct: BTreeSet<u16> = many.iter().map(|r| r.port()).collect();
    assert_eq!(distinct.len(), 20);
    let [a, b, c] = portlease::reserve_ports();
    assert_eq!(BTreeSet::from([a.port(), b.port(), c.port()]).len(), 3);

    let ports = non_ephemeral_ports(8);
    let within = || ReserveOptions::new().range(ports[0]..=ports[7]);
    let taken = ReserveOptions::new().port(ports[3]).reserve().unwrap();
    let error = within().reserve_many(8).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFreePort, "{error}");
    assert_eq!(within().reserve_many(7).unwrap().len(), 7, "some were kept");
    drop(taken);
    assert_eq!(within().reserve_many(8).unwrap().len(), 8);
    assert!(ReserveOptions::new().reserve_many(0).unwrap().is_empty());
}

#[test]
fn a_block_is_consecutive_and_all_or_none() {
    let block = ReserveOptions::new().reserve_block(5).unwrap();
    assert!(
        block
            .windows(2)
            .all(|pair| pair[1].port() == pair[0].port() + 1),
        "{block:?}"
    );

    let ports = non_ephemeral_ports(10);
    let within = || ReserveOptions::new().range(ports[0]..=ports[9]);
    let taken = ReserveOptions::new().port(ports[5]).reserve().unwrap();
    let error = within().reserve_block(6).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFreePort, "{error}");
    assert!(
        error
            .to_string()
            .starts_with("cannot reserve 6 consecutive ports from "),
        "{error}"
    );
    let five = within().reserve_block(5).unwrap();
    assert_eq!(
        five[0].port(),
        ports[0],
        "only these five are consecutive and free"
    );
    let after = ReserveOptions::new()
        .port(ports[6])
        .reserve_block(4)
        .unwrap();
    assert_eq!(
        after.iter().map(|r| r.port()).collect::<Vec<_>>(),
        ports[6..]
    );
    drop((taken, five, after));
    assert_eq!(within().reserve_block(10).unwrap().len(), 10);
    assert!(ReserveOptions::new().reserve_block(0).unwrap().is_empty());
}

#[test]
fn a_label_is_kept() {
    let labelled = ReserveOptions::new()
        .label("redis primary")
        .reserve()
        .unwrap();
    assert_eq!(labelled.label(), Some("redis primary"));
    assert_eq!(portlease::reserve_port().label(), None);
}

#[test]
fn an_exhausted_range_reports_how_many_were_tried() {
    let taken = ReserveOptions::new().reserve_block(3).unwrap();
    let range = taken[0].port()..=taken[2].port();
    let error = ReserveOptions::new()
        .range(range.clone())
        .reserve()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFreePort);
    let expected = format!(
        "cannot reserve a port from {}-{}: 3 tried: ",
        range.start(),
        range.end()
    );
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[test]
fn every_number_of_a_block_obeys_the_range_and_the_exclusions() {
    let ports = non_ephemeral_ports(8);
    let (low, high) = (ports[0], ports[7]);
    let numbers = |options: ReserveOptions, n| -> portlease::Result<Vec<u16>> {
        let block = options.reserve_block(n)?;
        Ok(block.iter().map(|r| r.port()).collect())
    };
    let new = ReserveOptions::new;
    let ruled_out = [
        new().port(low).range(low..=low + 1),
        new().port(low).range(low + 1..),
        new().port(low).exclude([low]),
        new().port(low).exclude([low + 3]),
        new().port(low).exclude([low + 1]).range(low..=high),
    ];
    for options in ruled_out {
        let what = format!("{options:?}");
        let error = numbers(options, 4).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPort, "{what}: {error}");
    }
    let exact = new().port(low).range(low..=low + 3).exclude([low + 4]);
    assert_eq!(numbers(exact, 4).unwrap(), ports[..4]);
    // Preferred: a block that would leave the range or contain an exclusion is not the first one.
    for first in [high - 2, high, low] {
        let options = new().range(low..=high).prefer([first]).exclude([low + 1]);
        let block = numbers(options, 4).unwrap();
        assert!(block[0] > low + 1 && block[3] <= high, "{first}: {block:?}");
    }
    let preferred = new().range(low..=high).prefer([high - 2, low + 2]);
    assert_eq!(numbers(preferred, 4).unwrap(), ports[2..6]);
    // Any: the only block without an exclusion.
    for _ in 0..10 {
        let options = new().range(low..=high).exclude([low + 3]);
        assert_eq!(numbers(options, 4).unwrap(), ports[4..]);
    }
    let options = new().range(low..=high).exclude([low + 3, low + 7]);
    let error = numbers(options, 4).unwrap_err();
    assert!(
        [ErrorKind::InvalidPort, ErrorKind::NoFreePort].contains(&error.kind()),
        "{error}"
    );
}

#[test]
fn an_exclusion_of_every_number_is_an_error_that_names_it() {
    let new = ReserveOptions::new;
    let kinds = [
        new(),
        new().udp(),
        new().tcp_and_udp(),
        new().reuse_addr(false),
    ];
    for kind in kinds {
        let what = format!("{kind:?}");
        for options in [
            kind.clone().exclude(1..=65535),
            kind.clone().exclude(20000..=20010).range(20000..=20010),
            kind.clone().exclude(1..=65535).prefer([20000]),
        ] {
            for n in [1, 2] {
                let errors = [
                    options.clone().reserve_many(n).map(drop).unwrap_err(),
                    options.clone().reserve_block(n).map(drop).unwrap_err(),
                ];
                for error in errors {
                    assert_eq!(error.kind(), ErrorKind::InvalidPort, "{what}: {error}");
                    assert!(!error.to_string().contains("0 tried"), "{error}");
                }
            }
        }
    }
}
