//! `run` and `reserve` with `PORTSERVER_ADDRESS`: what they report about the port server.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use crate::program::{Running, finish, portlease};
use crate::serve::{name, serve};
use crate::support::program::installed;
use crate::support::{Folder, need};

/// Binds the port `PORT` without SO_REUSEADDR.
const PLAIN_SERVER: &str = "import os, socket\n\
    socket.socket().bind(('127.0.0.1', int(os.environ['PORT'])))\n";

#[test]
fn a_server_without_reuse_addr_is_refused_unless_the_port_server_makes_no_claim() {
    need!(installed("python3"));
    let (folder, claims, plain) = (Folder::new(), name("claims"), name("plain"));
    let _claims = serve(&claims, &folder);
    let mut command = portlease(&["serve", "--no-reuse-addr", "--address", &plain]);
    let log = folder.path().join("plain.log");
    let _plain = Running::with_log(command.env("PORTLEASE_DIR", folder.locks()), &log);
    let client = |address: &str, args: &[&str]| {
        let mut command = portlease(args);
        command
            .env("PORTLEASE_DIR", folder.locks())
            .env("PORTSERVER_ADDRESS", address);
        finish(&mut command)
    };
    let start = "portlease: cannot apply --no-reuse-addr: the port server ";
    let end = "start `portlease serve` with --no-reuse-addr, or unset PORTSERVER_ADDRESS\n";
    let pid = std::process::id().to_string();
    let run = [
        "run",
        "--no-reuse-addr",
        "--",
        "python3",
        "-c",
        PLAIN_SERVER,
    ];
    let reserve = ["reserve", "--no-reuse-addr", "--pid", &pid];
    for (args, code) in [(&run[..], 125), (&reserve, 2)] {
        let refused = client(&claims, args).code(code);
        let is_expected = refused.err.starts_with(start) && refused.err.ends_with(end);
        assert!(is_expected && refused.out.is_empty(), "{refused:#?}");
        client(&plain, args).code(0);
    }
    // No claim is on a UDP port.
    let udp = ["run", "--no-reuse-addr", "--port", "A/udp", "--", "true"];
    client(&claims, &udp).code(0);

    let help = "; if the port server of PORTSERVER_ADDRESS holds the port, start `portlease serve` \
                with --no-reuse-addr";
    let failed = client(&claims, &["run", "--", "python3", "-c", PLAIN_SERVER]).code(1);
    assert!(
        failed
            .err
            .contains("\nportlease: no server was seen on port ")
            && failed.err.contains(help),
        "{failed:#?}"
    );
    let reserved = client(&claims, &["reserve", "--pid", &pid]).code(0);
    let port = reserved.out.trim();
    let busy = client(&claims, &["check", "--no-reuse-addr", port]).code(1);
    assert!(busy.out.contains(help), "{busy:#?}");
}

#[test]
fn an_answer_that_is_no_port_number_is_quoted() {
    let folder = Folder::new();
    let path = folder.path().join("socket");
    let address = path.to_str().unwrap();
    let server = UnixListener::bind(&path).unwrap();
    let long = "9".repeat(1000);
    for (answer, cause) in [
        (
            "99999\n",
            "the server answered \"99999\", which is not a port number",
        ),
        (
            "0\n",
            "the server answered \"0\", which is not a port number",
        ),
        (
            "a\u{1b}b\n",
            "the server answered \"a\\u{1b}b\", which is not a port number",
        ),
        (
            &long,
            &format!("the server answered \"{}\", which is", &long[..100]),
        ),
        ("\n", "the server refused, and sent no port number"),
    ] {
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = server.accept().unwrap();
                BufReader::new(&stream)
                    .read_line(&mut String::new())
                    .unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            });
            let mut run = portlease(&["run", "--", "true"]);
            finish(run.env("PORTSERVER_ADDRESS", address)).code(125)
        });
        assert!(output.err.contains(&format!(": {cause}")), "{output:#?}");
    }
}
