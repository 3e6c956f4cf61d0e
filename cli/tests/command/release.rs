//! `portlease release`, as the help of other commands names it.

use crate::keepers::{Sleeper, command, leases};
use crate::program::finish;
use crate::support::{Folder, capability, need};

/// Without a protocol, `release` would release the UDP reservation of the number too.
#[test]
fn the_release_that_the_help_names_keeps_the_reservation_of_the_other_protocol() {
    need!(capability::native());
    let folder = Folder::new();
    let sleeper = Sleeper::new();
    let pid = sleeper.pid();
    let command = |args: &[&str]| finish(&mut command(&folder, args));
    let reserve = |args: &[&str]| {
        let all = [&["reserve", "--pid", &pid], args].concat();
        command(&all).code(0).out.trim().to_owned()
    };
    let port = reserve(&[]);
    reserve(&["--udp", "--port", &port, "--wait", "30s"]);
    for asked in [&port, &format!("127.0.0.1:{port}")] {
        let help = command(&["check", asked]).code(1).out;
        let release = format!("`portlease release {port}/tcp`");
        assert!(help.contains(&release), "{help}");
    }
    command(&["release", &format!("{port}/tcp")]).code(0);
    let left = leases(&folder);
    assert!(left.len() == 1 && left[0]["protocol"] == "udp", "{left:#?}");
}
