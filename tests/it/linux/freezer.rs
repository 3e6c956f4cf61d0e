//! Processes whose control group is frozen, with the real freezer of the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use portlease::{ProcessState, Remedy, check_port_free, reserve_port, who_holds};

use super::whose::Server;
use crate::support::{DEADLINE, eventually, need};

/// A control group of a test.
struct Group {
    path: PathBuf,
    file: &'static str,
    freeze: &'static str,
    thaw: &'static str,
}

impl Group {
    /// Makes a group in each hierarchy with a freezer that this user may change.
    fn all(test: &str) -> Vec<Group> {
        let hierarchies = [
            ("/sys/fs/cgroup", "cgroup.freeze", "1", "0"),
            ("/sys/fs/cgroup/unified", "cgroup.freeze", "1", "0"),
            (
                "/sys/fs/cgroup/freezer",
                "freezer.state",
                "FROZEN",
                "THAWED",
            ),
        ];
        let make = |(root, file, freeze, thaw)| {
            let path = Path::new(root).join(format!("portlease-{test}-{}", std::process::id()));
            fs::create_dir(&path).ok()?;
            let group = Group {
                path,
                file,
                freeze,
                thaw,
            };
            group.path.join(file).is_file().then_some(group)
        };
        hierarchies.into_iter().filter_map(make).collect()
    }

    fn freeze(&self, pid: u32) -> Frozen<'_> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
        let frozen = Frozen(self);
        fs::write(self.path.join(self.file), self.freeze).unwrap();
        frozen
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The group can be removed a moment after its processes have ended.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The drop thaws the group. Version 1 does not even kill a frozen process.
struct Frozen<'a>(&'a Group);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let Frozen(group) = self;
        let _thawed = fs::write(group.path.join(group.file), group.thaw);
    }
}

fn any(groups: &[Group]) -> Result<(), String> {
    match groups {
        [] => Err("no control group with a freezer can be made".to_owned()),
        _ => Ok(()),
    }
}

/// Runs the command line after `with`, as a person would.
fn thaw(help: &str) {
    let command = help.split_once(" with ").unwrap().1;
    let command = command.split("; then ").next().unwrap();
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

#[test]
fn a_frozen_holder_is_thawed_and_then_stopped() {
    let groups = Group::all("holder");
    need!(any(&groups));
    for group in &groups {
        let p = reserve_port();
        let mut server = Server::new("server", p.port());
        server.port();
        let pid = server.id();
        let _frozen = group.freeze(pid);
        let help = eventually("the process is frozen", DEADLINE, || {
            let report = check_port_free(p.port()).unwrap_err();
            let help = report.help().unwrap();
            match report.remedies() {
                [Remedy::Thaw { .. }, Remedy::StopProcess { .. }, ..] => Ok(help),
                _ => Err(help),
            }
        });
        assert!(
            help.starts_with(&format!(
                "thaw pid {pid}, whose control group is frozen, with echo "
            )) && help.contains(&format!("; then stop pid {pid}, or ")),
            "{help}"
        );
        let holders = who_holds(p.port()).unwrap();
        let process = &holders
            .iter()
            .find(|holder| holder.is_server())
            .unwrap()
            .processes[0];
        assert_eq!(process.state, ProcessState::Frozen);
        let headline = check_port_free(p.port()).unwrap_err().headline();
        assert!(
            headline.contains(&format!("pid {pid}, frozen)")),
            "{headline}"
        );
        let stop = Command::new("kill").arg(pid.to_string()).status().unwrap();
        assert!(stop.success());
        // The control: in version 1, a signal does not end the process before it is thawed. In
        // version 2, only a signal that the process handles has to wait.
        if group.file == "freezer.state" {
            p.wait_until_free(Duration::from_millis(200)).unwrap_err();
        }
        thaw(&help);
        p.wait_until_free(DEADLINE).unwrap();
    }
}

#[test]
fn an_expected_process_that_is_frozen_starts_no_server() {
    let groups = Group::all("expected");
    need!(any(&groups));
    for group in &groups {
        let p = reserve_port();
        let child = Server::of(Command::new("sleep").arg("600").spawn().unwrap());
        let _frozen = group.freeze(child.id());
        let report = || {
            let error = p.wait_for_pid(child.id(), Duration::ZERO).unwrap_err();
            (
                error.to_string(),
                error.diagnosis().unwrap().help().unwrap(),
            )
        };
        let is_frozen = format!("pid {} is frozen, so it starts no server", child.id());
        let help = eventually("the process is frozen", DEADLINE, || match report() {
            (text, help) if text.contains(&is_frozen) => Ok(help),
            (text, _) => Err(text),
        });
        thaw(&help);
        eventually("the process runs", DEADLINE, || match report() {
            (text, _) if text.contains(&is_frozen) => Err(text),
            _ => Ok(()),
        });
    }
}
