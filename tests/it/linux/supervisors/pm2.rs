//! pm2, whose daemon runs the programs of one folder, and listens for those in cluster mode.

use std::process::Command;

use super::{Site, has_program, kill_tree, path_with_node_programs, program, stop_by_name};
use crate::support::program::installed;
use crate::support::{DEADLINE, Folder, need};

/// A daemon of pm2. Dropping it kills it and its programs.
struct Pm2(Folder);

impl Pm2 {
    /// Starts a server. It listens when this returns.
    fn start(&self, name: &str, site: &Site, options: &[&str]) {
        let port = site.p.to_string();
        let mut pm2 = Command::new(program("pm2").unwrap());
        pm2.args(["start", "server.js", "--name", name])
            .args(options);
        pm2.args(["--", &port]).current_dir(site.app());
        pm2.env("PM2_HOME", self.0.path());
        pm2.env("PATH", path_with_node_programs());
        // Otherwise pm2 asks a server on the internet for its latest version.
        pm2.env("PM2_DISCRETE_MODE", "true");
        pm2.env("PM2_DISABLE_VERSION_CHECK", "true");
        let output = pm2.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        site.p.wait_until_listening(DEADLINE).unwrap();
    }

    fn pid(&self) -> Option<u32> {
        let pid = std::fs::read_to_string(self.0.path().join("pm2.pid")).ok()?;
        pid.trim().parse().ok()
    }
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            kill_tree(pid);
        }
    }
}

/// The name in a line of `pm2 list` that has this cell.
fn name_in_list<'a>(line: &'a str, cell: &str) -> Option<&'a str> {
    let cells: Vec<&str> = line.split('│').map(str::trim).collect();
    cells.contains(&cell).then(|| cells[2])
}

#[test]
fn a_program_of_pm2_is_stopped_by_pm2() {
    need!(installed("node"), has_program("pm2"));
    let (pm2, site) = (Pm2(Folder::new()), Site::new());
    pm2.start("web", &site, &[]);
    let server = site.kill_server(|| {});
    let help = site.help();
    let start = format!(
        "stop pid {server} through its supervisor pm2 (pid {}), which may otherwise start it \
         again: `PM2_HOME={} pm2 stop NAME`",
        pm2.pid().unwrap(),
        pm2.0.path().display()
    );
    assert!(help.starts_with(&start), "{help}");
    let pid = server.to_string();
    stop_by_name(&help, |line| name_in_list(line, &pid));
    site.stays_free();
}

/// Stopping the daemon would end the other program too.
#[test]
fn pm2_itself_is_not_stopped_though_it_listens() {
    need!(installed("node"), has_program("pm2"));
    let (pm2, site, other) = (Pm2(Folder::new()), Site::new(), Site::new());
    pm2.start("web", &site, &["-i", "1"]);
    pm2.start("other", &other, &[]);
    let (daemon, server) = (pm2.pid().unwrap(), other.server());
    assert_eq!(site.listeners(), [daemon]);
    let help = site.help();
    let start = format!(
        "stop the program for which pm2 (pid {daemon}) listens: `PM2_HOME={} pm2 stop NAME`",
        pm2.0.path().display()
    );
    assert!(help.starts_with(&start), "{help}");
    stop_by_name(&help, |line| name_in_list(line, "web"));
    site.stays_free();
    assert_eq!(other.listeners(), [server]);
}
