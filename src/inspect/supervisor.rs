//! Finds the supervisor that may start a process again, and the supervisor's command that stops the
//! process.

use std::path::Path;

use super::ancestor::{Ancestor, is_pm2_daemon};
use crate::model::process::{Process, Supervisor, SupervisorKind};
use crate::printable::printable;
use crate::shell_word::shell_word;
use crate::sockets;

/// What keeps a supervisor from starting a program again.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// This command, followed by the folder of the service. The folder is the working directory of
    /// the supervisor.
    Folder(&'static str),
    /// The command `CONTROL stop NAME`. The two fields are CONTROL, the control program of the
    /// supervisor, and LIST, its subcommand that shows the names and the pids.
    Named(&'static str, &'static str),
    /// `rc-service NAME stop`. The name is the first argument of the supervisor.
    RcService,
    /// A command that depends on the configuration of the supervisor.
    Unknown,
    /// The user must end the supervisor itself. A supervisor of this kind usually runs only one
    /// command. Exception: `reflex -c` runs several commands, and all of them end with reflex.
    Itself,
}

/// Programs that start another program again, when that program ends or when a file changes. In an
/// entry of two words, the second word is an option or a subcommand. The program is a supervisor
/// only with that word.
///
/// honcho, foreman and `tsx` without `watch` are not listed: they end when their program ends.
const SUPERVISORS: [(&str, Stop); 26] = [
    ("runsv", Stop::Folder("sv down")),
    ("s6-supervise", Stop::Folder("s6-svc -d")),
    ("supervise", Stop::Folder("svc -d")),
    ("supervise-daemon", Stop::RcService),
    ("supervisord", Stop::Named("supervisorctl", "status")),
    ("dinit", Stop::Named("dinitctl", "list")),
    ("pm2", Stop::Named("pm2", "list")),
    ("pm2-runtime", Stop::Named("pm2", "list")),
    ("perpd", Stop::Unknown),
    ("circusd", Stop::Unknown),
    ("monit", Stop::Unknown),
    ("nodemon", Stop::Itself),
    ("node --watch", Stop::Itself),
    ("node --watch-path", Stop::Itself),
    ("tsx watch", Stop::Itself),
    ("forever", Stop::Itself),
    ("watchmedo", Stop::Itself),
    ("watchfiles", Stop::Itself),
    ("hupper", Stop::Itself),
    ("entr", Stop::Itself),
    ("reflex", Stop::Itself),
    ("watchexec", Stop::Itself),
    ("cargo-watch", Stop::Itself),
    ("bacon", Stop::Itself),
    ("air", Stop::Itself),
    // `watch` runs its command again and again.
    ("watch", Stop::Itself),
];

/// Programs that run one command and end with it. A supervisor can run a server through them, and
/// through shells.
const WRAPPERS: [&str; 39] = [
    "sudo",
    "su",
    "runuser",
    "doas",
    "timeout",
    "tini",
    "dumb-init",
    "npm",
    "npx",
    "yarn",
    "pnpm",
    "tsx",
    "cross-env",
    "cargo",
    "uv",
    "make",
    "gmake",
    "just",
    "task",
    "ninja",
    "flock",
    "time",
    "strace",
    "ltrace",
    "setsid",
    "unshare",
    "script",
    "unbuffer",
    "xvfb-run",
    "poetry",
    "pipenv",
    "pdm",
    "hatch",
    "bundle",
    "go",
    "mvn",
    "gradle",
    "bun",
    "deno",
];

/// The search for a supervisor passes at most this number of shells and wrappers (programs such as
/// sudo) in a row.
const WRAPPERS_DEEP: usize = 5;

/// Finds the supervisor of a process. The search goes up the ancestors, past shells and
/// [`WRAPPERS`]:
///
/// - If the ancestor above them is in [`SUPERVISORS`], that ancestor is the supervisor.
/// - Otherwise the supervisor is the nearest of these shells whose script has a loop. Without such
///   a shell the result is `None`.
///
/// `own_lineage` is this process and its ancestors. The search ends at the first of these
/// processes. The function does not return that process, because its end could end this process
/// too. Exception: the function returns a [`SupervisorKind::Manager`] in `own_lineage`, because a
/// manager such as supervisord can stop one service alone.
pub(super) fn supervisor(process: &Process, own_lineage: &[u32]) -> Option<Supervisor> {
    if is_pm2_daemon(&process.name) {
        return for_itself(process.pid);
    }
    let mut looping = None;
    let (mut child, mut parent) = (process.pid, process.parent);
    for _ in 0..=WRAPPERS_DEEP {
        let Some(ancestor) = parent.and_then(Ancestor::read) else {
            return looping;
        };
        let is_own = own_lineage.contains(&ancestor.pid);
        let found = |name: &str, kind| Supervisor {
            pid: ancestor.pid,
            name: name.to_owned(),
            kind,
            is_parent: child == process.pid,
            sigkill: needs_sigkill(ancestor.pid),
        };
        let listed = SUPERVISORS.iter().find(|(name, _)| ancestor.runs(name));
        match listed {
            Some((_, Stop::Itself)) if is_own => return looping,
            Some((name, Stop::Itself)) => return Some(found(name, SupervisorKind::Watcher)),
            Some((name, stop)) => {
                let command = stop_command(&ancestor, *stop, child);
                return Some(found(name, SupervisorKind::Manager(command)));
            }
            // A supervisor above this ancestor runs the calling process too, so the search ends
            // here.
            None if is_own => return looping,
            None if ancestor.is_shell() => {
                if looping.is_none() && ancestor.has_loop() {
                    looping = Some(found(&ancestor.name, SupervisorKind::Loop));
                }
            }
            None if WRAPPERS.iter().any(|name| ancestor.runs(name)) => {}
            None => return looping,
        }
        (child, parent) = (ancestor.pid, ancestor.parent);
    }
    looping
}

/// The supervisor of a program in pm2's cluster mode. In that mode pm2's daemon, the process `pid`,
/// owns the program's listening socket, so the daemon is both the holder and the supervisor.
fn for_itself(pid: u32) -> Option<Supervisor> {
    let control = pm2(&Ancestor::read(pid)?)?;
    let command = format!("`{control} stop NAME`, with a NAME that `{control} list` shows");
    Some(Supervisor {
        pid,
        name: "pm2".to_owned(),
        kind: SupervisorKind::Manager(Some(command)),
        is_parent: false,
        sigkill: needs_sigkill(pid),
    })
}

/// `false` if the process cannot be read.
fn needs_sigkill(pid: u32) -> bool {
    sockets::describe(pid).is_some_and(|process| process.needs_sigkill())
}

/// A text with the command line that stops the program of the process `child`. `None` if no command
/// is known.
fn stop_command(supervisor: &Ancestor, stop: Stop, child: u32) -> Option<String> {
    match stop {
        Stop::Folder(command) => {
            let folder = path_word(&sockets::working_directory(supervisor.pid)?)?;
            Some(format!("`{command} {folder}`"))
        }
        Stop::Named(control, list) => {
            let control = match control {
                "supervisorctl" => supervisorctl(supervisor)?,
                "pm2" => pm2(supervisor)?,
                other => other.to_owned(),
            };
            Some(format!(
                "`{control} stop NAME`, with the NAME that `{control} {list}` shows for pid {child}"
            ))
        }
        Stop::RcService => {
            let name = supervisor.words.get(1)?;
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let is_plain = name.chars().all(is_plain);
            is_plain.then(|| format!("`rc-service {name} stop`"))
        }
        Stop::Unknown | Stop::Itself => None,
    }
}

/// The command supervisorctl with the option that it needs to reach this supervisord.
fn supervisorctl(supervisord: &Ancestor) -> Option<String> {
    let folder = sockets::working_directory(supervisord.pid)?;
    let file = match configuration(&supervisord.words) {
        Some(file) => folder.join(file),
        None => {
            let defaults = [
                "supervisord.conf",
                "etc/supervisord.conf",
                "/etc/supervisord.conf",
                "/etc/supervisor/supervisord.conf",
            ];
            // Without the option `-c`, supervisorctl would search the working directory of the user
            // before /etc.
            let mut defaults = defaults.iter().map(|file| folder.join(file));
            match defaults.find(|file| file.exists()) {
                Some(file) => file,
                // The other default files are near the program. A supervisorctl that is installed
                // beside this supervisord finds them without an option.
                None => return Some("supervisorctl".to_owned()),
            }
        }
    };
    Some(format!("supervisorctl -c {}", path_word(&file)?))
}

/// The configuration file on the command line of supervisord.
fn configuration(words: &[String]) -> Option<&str> {
    words.iter().enumerate().find_map(|(at, word)| {
        let next = || words.get(at + 1).map(String::as_str);
        if let Some(value) = word.strip_prefix("--configuration") {
            return value.strip_prefix('=').or_else(next);
        }
        // Options without a value can precede `c` in one word, as in `-nc FILE`.
        let options = word.strip_prefix('-')?;
        let value = options.trim_start_matches(['n', 's', 'k', 't']);
        let value = value.strip_prefix('c')?;
        Some(value).filter(|value| !value.is_empty()).or_else(next)
    })
}

/// The command pm2 with the variable that it needs to reach this daemon. The daemon names itself
/// "PM2 v5.3.0: God Daemon (/home/user/.pm2)".
fn pm2(daemon: &Ancestor) -> Option<String> {
    let title = daemon.words.first().and_then(|title| title.split_once('('));
    match title.and_then(|(_, rest)| rest.rsplit_once(')')) {
        Some((home, _)) => Some(format!("PM2_HOME={} pm2", path_word(home.as_ref())?)),
        None => Some("pm2".to_owned()),
    }
}

/// The path as a word for a shell. Returns `None` if the path does not exist for this process, or
/// if a report could not print it unchanged.
fn path_word(path: &Path) -> Option<String> {
    let text = path.to_str().filter(|text| printable(text) == *text)?;
    // If `try_exists` fails, for example without permission, the path may exist.
    if !path.try_exists().unwrap_or(true) {
        return None;
    }
    Some(shell_word(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_supervisord_is_found_on_its_command_line() {
        for (line, expected) in [
            ("supervisord -n -c /etc/s.conf", Some("/etc/s.conf")),
            ("supervisord -nc s.conf", Some("s.conf")),
            ("supervisord -cs.conf", Some("s.conf")),
            ("supervisord --configuration=a=b", Some("a=b")),
            ("supervisord --configuration s.conf -n", Some("s.conf")),
            ("supervisord -l s.log -e critical --nocleanup", None),
            ("supervisord -c", None),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(configuration(&words), expected, "{line}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_reads_a_path_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["plain", "a space", "it's", "$HOME `x` \"y\" \\", "*", "~"] {
            let path = folder.path().join(name);
            assert_eq!(path_word(&path), None);
            std::fs::write(&path, name).unwrap();
            let script = format!("cat {}", path_word(&path).unwrap());
            let shell = std::process::Command::new("sh")
                .args(["-c", &script])
                .output();
            assert_eq!(shell.unwrap().stdout, name.as_bytes(), "{script}");
        }
        let two_lines = folder.path().join("a\nb");
        std::fs::write(&two_lines, "").unwrap();
        assert_eq!(path_word(&two_lines), None);
    }
}
