//! `portlease list`.

use serde_json::json;

use crate::program::{Running, finish, line_in, portlease};
use crate::support::Folder;

#[test]
fn each_reservation_is_listed_with_its_owner() {
    let folder = Folder::new();
    let command = |args: &[&str]| {
        let mut command = portlease(args);
        command.env("PORTLEASE_DIR", folder.locks());
        command
    };
    let empty = finish(&mut command(&["list"])).code(0);
    assert_eq!(
        (empty.out.as_str(), empty.err.as_str()),
        ("", "portlease: no port is reserved\n")
    );
    assert_eq!(
        finish(&mut command(&["list", "--json"])).code(0).json(),
        json!({"version": 1, "leases": []})
    );

    let file = folder.path().join("ports");
    let script = "echo $WEB $DNS > \"$FILE\"; exec sleep 600";
    let mut run = command(&[
        "run", "--port", "WEB", "--port", "DNS/udp", "--label", "a\tb", "--", "sh", "-c", script,
    ]);
    let run = Running::start(run.env("FILE", &file));
    let line = line_in(&file);
    let (web, dns) = line.split_once(' ').unwrap();

    let text = finish(&mut command(&["list"])).code(0).out;
    let heads: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        heads,
        [
            "PORT", "PROTOCOL", "PID", "PROGRAM", "TEST", "AT", "LABEL", "NAME", "AGE"
        ]
    );
    let mut rows: Vec<Vec<&str>> = text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect())
        .collect();
    rows.sort_by_key(|row| row[1]);
    let pid = run.pid().to_string();
    assert_eq!(rows.len(), 2, "{text}");
    for (row, (port, protocol)) in rows.iter().zip([(web, "tcp"), (dns, "udp")]) {
        assert_eq!(row[..4], [port, protocol, &pid, "portlease"], "{text}");
        assert!(
            row[5].starts_with("cli/src/")
                && row[6] == "a\\tb"
                && row[7] == "-"
                && row[8].ends_with('s'),
            "{text}"
        );
    }
    let output = finish(&mut command(&["list", "--json"])).code(0).json();
    let row = output["leases"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["protocol"] == "udp")
        .unwrap();
    assert_eq!(
        (&row["port"], &row["pid"]),
        (&json!(dns.parse::<u16>().unwrap()), &json!(run.pid()))
    );
    assert_eq!(row["label"], json!("a\tb"));
    assert_eq!(row.as_object().unwrap().len(), 10, "{row}");
}

#[test]
fn a_relative_lock_folder_is_a_failure() {
    let output = finish(portlease(&["list"]).env("PORTLEASE_DIR", "relative")).code(2);
    assert!(
        output
            .err
            .starts_with("portlease: cannot use the lock folder \"relative\": "),
        "{output:#?}"
    );
}
