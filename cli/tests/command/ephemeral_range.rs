//! Reports in a network namespace whose ephemeral range is half used up.

use std::process::Command;

use serde_json::{Value, json};

use crate::program::{finish, plain};
use crate::support::capability::{self, unshare_flags};
use crate::support::{Folder, need};

/// The answer of `portlease ARGS` while a reservation has one of the two ephemeral ports, 41000.
fn beside_a_reservation(args: &str) -> Value {
    let folder = Folder::new();
    let script = format!(
        "ip link set lo up && echo 41000 41001 > /proc/sys/net/ipv4/ip_local_port_range || exit 99
        exec \"$BIN\" run --port A=41000 -- sh -c '\"$BIN\" {args}'"
    );
    let mut command = Command::new("unshare");
    command
        .args(unshare_flags())
        .args(["-n", "sh", "-c", &script]);
    plain(&mut command);
    let ran = finish(command.env("PORTLEASE_DIR", folder.locks()));
    assert!(ran.out.starts_with('{'), "{args}: {ran:#?}");
    ran.json()
}

/// The usage of the range that the claim of the reservation causes. `None` if this kernel does not
/// show the claim (Linux before 6.8): then no number is known to be in use, and no usage is shown.
fn usage(who: &Value) -> Option<Value> {
    let unseen = who["unseen"].to_string();
    (!unseen.contains("bound without listening")).then(|| {
        json!({
            "low": 41000, "high": 41001, "ports": 2, "in_use": 1, "listening": 0, "bound": 1,
            "connected": 0, "time_wait": 0, "complete": true, "unseen": [],
        })
    })
}

#[test]
fn who_and_check_have_the_usage_of_a_crowded_range_in_json() {
    need!(capability::network_namespace());
    let who = beside_a_reservation("who --json 41000");
    let expected = usage(&who);
    assert_eq!(who.get("ephemeral_range"), expected.as_ref(), "{who}");
    let check = beside_a_reservation("check --json --listening 42000");
    let found = check["ports"][0].get("ephemeral_range");
    assert_eq!(found, expected.as_ref(), "{check}");
    // An answer about a UDP port shows no usage.
    let udp = beside_a_reservation("who --json 41000/udp");
    assert_eq!(udp.get("ephemeral_range"), None, "{udp}");
}
