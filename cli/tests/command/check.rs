//! `portlease check`.

use std::net::TcpListener;
use std::process::Command;

use portlease::{ReserveOptions, reserve_port};
use serde_json::json;

use crate::program::{Running, finish, for_everybody, plain, portlease, ran, silent};
use crate::support::{Folder, capability, need};

#[test]
fn ports_that_are_free_are_nothing_to_speak_of() {
    let ports = [silent(), silent()].map(|p| (p.to_string(), p));
    let udp = portlease::reserve_udp_port();
    let list = format!("{},{}", ports[0].0, ports[1].0);
    let ran = ran(&["check", &list, &format!("127.0.0.1:{udp}/udp")]).code(0);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
}

#[test]
fn each_port_that_is_not_free_has_its_holder_and_the_help_line() {
    let block = ReserveOptions::new().reserve_block(3).unwrap();
    let server = block[1].listen().unwrap();
    let pid = std::process::id();
    let (first, middle, last) = (block[0].port(), block[1].port(), block[2].port());
    let ran = ran(&["check", &format!("{first}-{last}")]).code(1);
    let lines: Vec<&str> = ran.out.lines().collect();
    let [holder, help] = lines[..] else {
        panic!("{ran:#?}")
    };
    assert!(
        holder.starts_with(&format!("port {middle}/tcp is in use: ")),
        "{holder}"
    );
    assert!(
        holder.ends_with(&format!("(pid {pid}) listens on 127.0.0.1:{middle}")),
        "{holder}"
    );
    assert!(
        help.starts_with(&format!("help: stop pid {pid}, or ")),
        "{help}"
    );
    drop(server);
    crate::program::ran(&["check", &format!("{first}-{last}")]).code(0);
}

#[test]
fn more_words_and_none() {
    let p = reserve_port();
    let _server = p.listen().unwrap();
    let said = ran(&["check", "-v", &p.to_string()]).code(1).out;
    assert!(
        said.contains("\n  listening ") && said.contains("\n  the number "),
        "{said}"
    );
    let said = ran(&["check", "-q", &p.to_string()]).code(1);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
    let free = silent();
    let said = ran(&["check", "-v", &free.to_string()]).code(0);
    assert_eq!(
        (said.out, said.err),
        (
            String::new(),
            format!("portlease: port {free}/tcp is free\n")
        )
    );
}

#[test]
fn the_opposite_can_be_asked() {
    let (quiet, p) = (silent(), reserve_port());
    let _server = p.listen().unwrap();
    ran(&["check", "--listening", &p.to_string()]).code(0);
    let said = ran(&["check", "--listening", &p.to_string(), &quiet.to_string()])
        .code(1)
        .out;
    assert!(
        said.starts_with(&format!("port {quiet}/tcp is not listening: ")),
        "{said}"
    );
}

#[test]
fn what_cannot_be_told_is_neither_yes_nor_no() {
    let (free, busy) = (silent(), reserve_port());
    let _server = busy.listen().unwrap();
    let untold = format!("{free}/udplite");
    let said = ran(&["check", &free.to_string(), &untold]).code(3).out;
    assert!(
        said.starts_with(&format!("cannot tell about port {untold}: ")),
        "{said}"
    );
    ran(&["check", &untold, &busy.to_string()]).code(1);
    let said = ran(&["check", "--json", &untold]).code(3).json();
    assert_eq!(said["ports"][0]["free"], json!(null));
}

#[test]
fn anothers_reservation_is_in_the_way_without_any_server() {
    let folder = Folder::new();
    let mut sleeper = portlease(&["run", "--label", "not yours", "--", "sh", "-c"]);
    let file = folder.path().join("port");
    sleeper
        .arg("echo $PORT > \"$FILE\"; exec sleep 600")
        .env("FILE", &file);
    let mut sleeper = Running::start(sleeper.env("PORTLEASE_DIR", folder.locks()));
    let port = crate::program::line_in(&file);
    let said = finish(portlease(&["check", &port]).env("PORTLEASE_DIR", folder.locks()))
        .code(1)
        .out;
    let expected = format!("port {port}/tcp is in use: reserved by portlease (");
    assert!(
        said.starts_with(&expected) && said.contains("labelled \"not yours\""),
        "{said}"
    );
    assert!(sleeper.runs());
}

#[test]
fn a_hidden_owner_holds_it_all_the_same() {
    need!(capability::nobody());
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port().to_string();
    let (binary, _folder) = for_everybody();
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&binary)
            .args(args);
        plain(&mut command);
        finish(&mut command)
    };
    let said = as_nobody(&["check", &port]).code(1).out;
    assert!(
        said.contains("held by uid 0 (root); its process is hidden from you"),
        "{said}"
    );
    let said = as_nobody(&["who", "--json", &port]).code(0).json();
    assert_eq!(
        (&said["complete"], &said["holders"][0]["hidden"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(said["holders"][0]["processes"], json!([]));
}

#[test]
fn the_answer_as_json_has_this_shape() {
    need!(capability::native());
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let free = silent();
    crate::who::eventually_equal(|| {
        let said = ran(&[
            "check",
            "--json",
            &port.to_string(),
            &format!("127.0.0.1:{free}"),
        ])
        .code(1)
        .json();
        let rows = said["ports"].as_array().unwrap();
        let cause = rows[0]["cause"].as_str().unwrap();
        assert!(
            cause.ends_with(&format!(
                " (pid {}) listens on 127.0.0.1:{port}",
                std::process::id()
            )),
            "{cause}"
        );
        let expected = json!({"version": 1, "ports": [
            {
                "endpoint": format!("{port}/tcp"), "free": false, "holders": [crate::who::listener_row(port)],
                "cause": cause, "help": rows[0]["help"].as_str().unwrap(),
            },
            {"endpoint": format!("127.0.0.1:{free}/tcp"), "free": true, "holders": [], "cause": null, "help": null},
        ]});
        (said, expected)
    });
    let said = ran(&["check", "--json", "--listening", &port.to_string()])
        .code(0)
        .json();
    let row = json!({"endpoint": format!("{port}/tcp"), "listening": true, "holders": [], "cause": null, "help": null});
    assert_eq!(said, json!({"version": 1, "ports": [row]}));
}

#[test]
fn a_port_is_waited_for_and_told_of_if_in_vain() {
    let p = reserve_port();
    let server = p.listen().unwrap();
    let said = ran(&["check", "--wait", "50ms", &p.to_string()]).code(1);
    assert!(
        said.out.starts_with(&format!("port {p}/tcp is in use: ")),
        "{said:#?}"
    );
    assert!(
        said.err.starts_with(&format!(
            "portlease: waiting up to 50ms for {p}/tcp to be free\n"
        )),
        "{said:#?}"
    );
    assert!(
        said.err.contains("\nportlease: timed out after "),
        "{said:#?}"
    );

    let folder = Folder::new();
    let mut command = portlease(&["check", "--wait", "10m", &p.to_string()]);
    let (waiting, line) = Running::that_says(&mut command, &folder.path().join("log"));
    assert_eq!(
        line,
        format!("portlease: waiting up to 10m for {p}/tcp to be free")
    );
    drop(server);
    let said = waiting.finish().code(0);
    assert_eq!(said.out, "");
}
