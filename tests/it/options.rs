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
fn an_aligned_port_is_a_multiple_and_a_pair_begins_with_one() {
    let new = ReserveOptions::new;
    // Other tests allot numbers below 30000 to themselves.
    let named = new().named("pair").range(30000..);
    for kind in [new(), new().udp(), new().tcp_and_udp(), named] {
        let what = format!("{kind:?}");
        for multiple in [2, 3, 100, 1024] {
            let one = kind.clone().aligned(multiple).reserve().unwrap();
            assert!(one.port().is_multiple_of(multiple), "{what}: {one}");
            let pair = kind.clone().aligned(multiple).reserve_block(2).unwrap();
            assert!(pair[0].port().is_multiple_of(multiple), "{what}: {pair:?}");
            assert_eq!(pair[1].port(), pair[0].port() + 1);
        }
        let many = kind.aligned(2).reserve_many(8).unwrap();
        assert!(
            many.iter().all(|one| one.port().is_multiple_of(2)),
            "{many:?}"
        );
    }
    // An RTP stream and its control stream.
    let pair = new().udp().aligned(2).reserve_block(2).unwrap();
    let (rtp, rtcp) = (pair[0].udp_socket().unwrap(), pair[1].udp_socket().unwrap());
    rtp.send_to(b"report", rtcp.local_addr().unwrap()).unwrap();
    let mut received = [0; 16];
    assert_eq!(rtcp.recv_from(&mut received).unwrap(), (6, pair[0].addr()));

    let ports = non_ephemeral_ports(6);
    let (low, high) = (ports[0], ports[5]);
    // The range has one multiple of `multiple`. The preferred number is not a multiple.
    let multiple = low + 3;
    for _ in 0..5 {
        let options = new().range(low..=high).prefer([low + 1]).aligned(multiple);
        assert_eq!(port_of(options.reserve()), multiple);
    }
}

#[test]
fn ports_at_offsets_come_in_the_order_asked_and_obey_every_option() {
    let new = ReserveOptions::new;
    let numbers = |options: ReserveOptions, offsets: &[u16]| -> portlease::Result<Vec<u16>> {
        let held = options.reserve_offsets(offsets.iter().copied())?;
        Ok(held.iter().map(|r| r.port()).collect())
    };
    let check = |options: ReserveOptions, offsets: &[u16]| {
        let what = format!("{options:?}");
        let held = numbers(options, offsets).unwrap();
        let base = held[0] - offsets[0];
        let expected: Vec<u16> = offsets.iter().map(|offset| base + offset).collect();
        assert_eq!(held, expected, "{what}");
    };
    // Other tests allot numbers below 30000 to themselves.
    let high = || new().range(30000..);
    for kind in [
        high(),
        high().udp(),
        high().tcp_and_udp(),
        high().named("node"),
    ] {
        for offsets in [&[0, 10000][..], &[10000, 0], &[7, 3, 5]] {
            check(kind.clone(), offsets);
        }
    }
    // Further apart than any range outside the default ephemeral range.
    check(new(), &[0, 40000]);
    check(new().udp(), &[55000, 1]);
    let ports = non_ephemeral_ports(12);
    let (low, high) = (ports[0], ports[11]);
    let exact = new().port(low).reserve_offsets([0, 11]).unwrap();
    assert_eq!((exact[0].port(), exact[1].port()), (low, high));
    drop(exact);
    let within = || new().range(low..=high);
    assert_eq!(numbers(within(), &[0, 11]).unwrap(), [low, high]);
    assert_eq!(
        numbers(within().exclude([low]), &[0, 10]).unwrap(),
        [low + 1, high]
    );
    let preferred = within().prefer([low + 5, low + 2]);
    assert_eq!(numbers(preferred, &[0, 8]).unwrap(), [low + 2, low + 10]);
    // A base number that is none of the ports can be excluded.
    let excluded = within().prefer([low + 4]).exclude([low + 4]);
    assert_eq!(numbers(excluded, &[1, 2]).unwrap(), [low + 5, low + 6]);
    // All or none.
    let taken = new().port(low + 11).reserve().unwrap();
    let error = numbers(within(), &[0, 11]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFreePort, "{error}");
    let expected = format!("cannot reserve ports at the offsets 0, 11 from {low}-{high}: 1 tried");
    assert!(error.to_string().starts_with(&expected), "{error}");
    let error = numbers(new().port(low), &[0, 11]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    drop(taken);
    assert_eq!(
        numbers(within(), &[11, 0]).unwrap(),
        [high, low],
        "one was kept"
    );
    assert!(new().reserve_offsets([]).unwrap().is_empty());
}

#[test]
fn a_block_of_a_name_begins_at_one_number() {
    let ports = non_ephemeral_ports(40);
    let (low, high) = (ports[0], ports[39]);
    let options = || ReserveOptions::new().range(low..=high).named("cluster");
    let first = options().reserve_block(3).unwrap();
    let numbers: Vec<u16> = first.iter().map(|r| r.port()).collect();
    for reservation in &first {
        assert_eq!(reservation.first_choice(), Some(reservation.port()));
    }
    let second = options().reserve_block(3).unwrap();
    for (one, other) in first.iter().zip(&second) {
        assert_ne!(one.port(), other.port());
        assert_eq!(other.first_choice(), Some(one.port()));
    }
    drop((first, second));
    let again = options().reserve_block(3).unwrap();
    assert_eq!(again.iter().map(|r| r.port()).collect::<Vec<_>>(), numbers);
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
fn a_range_that_is_too_small_for_many_reports_what_the_call_itself_took() {
    let taken = ReserveOptions::new().reserve_block(5).unwrap();
    let range = taken[0].port()..=taken[4].port();
    // Two numbers stay reserved, so the call finds three of five. Later a server takes another one.
    let others: Vec<_> = taken.into_iter().skip(3).collect();
    let many = |n| ReserveOptions::new().range(range.clone()).reserve_many(n);
    let error = many(4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFreePort);
    let expected = format!(
        "cannot reserve 4 ports from {}-{}: 5 tried: 3 taken by this call itself, 2 already \
         reserved; {}: reserved by ",
        range.start(),
        range.end(),
        others[0].port()
    );
    assert!(error.to_string().starts_with(&expected), "{error}");
    // The call has released what it took.
    drop(many(3).unwrap());
    let server = std::net::TcpListener::bind(("127.0.0.1", *range.start())).unwrap();
    let expected = "5 tried: 2 taken by this call itself, 1 in use, 2 already reserved; ";
    let error = many(3).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    drop(server);
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
    // A preferred number is skipped if its block would leave the range or contain an exclusion.
    for first in [high - 2, high, low] {
        let options = new().range(low..=high).prefer([first]).exclude([low + 1]);
        let block = numbers(options, 4).unwrap();
        assert!(block[0] > low + 1 && block[3] <= high, "{first}: {block:?}");
    }
    let preferred = new().range(low..=high).prefer([high - 2, low + 2]);
    assert_eq!(numbers(preferred, 4).unwrap(), ports[2..6]);
    // Without a preference, the call finds the only block without an exclusion.
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
