//! [`Ancestor`]: an ancestor of a process, and which program and script it runs.

use std::path::Path;

use crate::sockets;

/// The name of pm2's daemon begins with this text. The version and ": God" follow.
const PM2_DAEMON: &str = "PM2 v";

/// The names of interpreters begin with these texts, as in `python3.11`. An interpreter runs the
/// script that follows its options.
const INTERPRETERS: [&str; 6] = ["node", "bun", "python", "ruby", "perl", "busybox"];

/// Options whose value is the next word, for at least one of the interpreters.
const WITH_VALUE: [&str; 8] = [
    "-r",
    "--require",
    "--import",
    "--loader",
    "--experimental-loader",
    "--env-file",
    "-W",
    "-X",
];

const SHELLS: [&str; 9] = [
    "sh", "bash", "dash", "zsh", "ash", "ksh", "ksh93", "mksh", "fish",
];

#[derive(Debug)]
pub(super) struct Ancestor {
    pub(super) pid: u32,
    pub(super) parent: Option<u32>,
    /// The name that the kernel has for the process.
    pub(super) name: String,
    /// The words of the command line.
    pub(super) words: Vec<String>,
}

impl Ancestor {
    pub(super) fn read(pid: u32) -> Option<Ancestor> {
        let program = sockets::program(pid)?;
        let words = program.arguments.iter();
        Some(Ancestor {
            pid,
            parent: program.parent,
            name: program.name,
            words: words.map(|word| word.to_string_lossy().into()).collect(),
        })
    }

    /// The names under which the process is known: its title, its program, and the script that an
    /// interpreter runs. Each name comes with the arguments that follow it.
    fn names(&self) -> impl Iterator<Item = (&str, &[String])> {
        let arguments = self.words.get(1..).unwrap_or_default();
        // npm sets its title to its command line, such as "npm run dev". So the first word is the
        // name.
        let title = match is_pm2_daemon(&self.name) {
            true => "pm2",
            false => self.name.split(' ').next().unwrap_or_default(),
        };
        let program = self.words.first().map_or("", |word| program_name(word));
        let is_interpreter = INTERPRETERS.iter().any(|name| program.starts_with(name));
        let script = first_operand(arguments).filter(|_| is_interpreter);
        let script = script.map(|at| (program_name(&arguments[at]), &arguments[at + 1..]));
        let names = [(title, arguments), (program, arguments)];
        names.into_iter().chain(script)
    }

    /// Whether the process runs the program `name`. If `name` has a second word, as in "tsx watch",
    /// that word must be an option of the program or its first operand.
    pub(super) fn runs(&self, name: &str) -> bool {
        let (name, option) = match name.split_once(' ') {
            Some((name, option)) => (name, Some(option)),
            None => (name, None),
        };
        let mut names = self.names().filter(|(own, _)| *own == name);
        names.any(|(_, arguments)| option.is_none_or(|option| has_option(arguments, option)))
    }

    pub(super) fn is_shell(&self) -> bool {
        SHELLS.iter().any(|shell| self.runs(shell))
    }

    /// Whether the process is a shell that runs a script with a loop. `false` if the script cannot
    /// be read.
    pub(super) fn has_loop(&self) -> bool {
        let Some((_, arguments)) = self.names().find(|(name, _)| SHELLS.contains(name)) else {
            return false;
        };
        let operand = first_operand(arguments);
        // One word can have several options, as in `sh -ec` and `sh -ce`.
        let has = |letter| {
            let options = arguments[..operand.unwrap_or(arguments.len())].iter();
            let mut options =
                options.filter(|word| word.starts_with('-') && !word.starts_with("--"));
            options.any(|word| word.contains(letter))
        };
        let text = match operand {
            // With the option -c, the first operand is the script itself.
            Some(script) if has('c') => Some(arguments[script].clone()),
            Some(script) if !has('s') => sockets::script_of(self.pid, Some(&arguments[script])),
            // With the option -s, or without an operand, the shell reads its script from stdin.
            _ => sockets::script_of(self.pid, None),
        };
        text.is_some_and(|text| has_loop(&text))
    }
}

pub(super) fn is_pm2_daemon(name: &str) -> bool {
    name.starts_with(PM2_DAEMON)
}

/// The position of the first argument that is neither an option nor the value of an option.
fn first_operand(arguments: &[String]) -> Option<usize> {
    // The option -o of shells has a value too, as in `bash -eo pipefail`.
    let has_value = |option: &str| {
        WITH_VALUE.contains(&option)
            || (option.starts_with('-') && !option.starts_with("--") && option.ends_with('o'))
    };
    let is_value = |at: usize| at > 0 && has_value(&arguments[at - 1]);
    (0..arguments.len()).find(|&at| !arguments[at].starts_with('-') && !is_value(at))
}

/// Returns `true` if `option` is the first operand (a subcommand) or an argument before the first
/// operand. Ignores the text after `=` in an argument.
fn has_option(arguments: &[String], option: &str) -> bool {
    let end = first_operand(arguments).map_or(arguments.len(), |at| at + 1);
    let mut words = arguments[..end].iter();
    words.any(|word| word.split('=').next() == Some(option))
}

/// The file name of a program or script, without `.js`, `.cjs` or `.mjs`.
fn program_name(path: &str) -> &str {
    // `forever start` starts a process that runs the script `bin/monitor` of forever.
    if path.ends_with("/forever/bin/monitor") {
        return "forever";
    }
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or(path);
    match name.rsplit_once('.') {
        Some((stem, "js" | "cjs" | "mjs")) => stem,
        _ => name,
    }
}

/// Whether a command of this shell script begins a loop.
fn has_loop(script: &str) -> bool {
    let lines = script.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with('#'));
    let mut commands = lines.flat_map(|line| line.split([';', '&', '|', '(', '{']));
    commands.any(|command| {
        let mut words = command.split_whitespace();
        let first = words.find(|word| !["do", "then", "else", "exec"].contains(word));
        first.is_some_and(|word| ["while", "until", "for"].contains(&word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ancestor(name: &str, line: &str) -> Ancestor {
        Ancestor {
            pid: std::process::id(),
            parent: None,
            name: name.to_owned(),
            words: line.split(' ').map(str::to_owned).collect(),
        }
    }

    #[test]
    fn a_program_is_known_by_its_title_its_path_or_its_script() {
        for (name, line, program) in [
            ("runsv", "runsv web", "runsv"),
            ("busybox", "busybox runsv web", "runsv"),
            ("run", "/bin/sh ./run", "sh"),
            ("npm run dev", "npm run dev", "npm"),
            (
                "supervisord",
                "python3 /usr/bin/supervisord -n",
                "supervisord",
            ),
            (
                "PM2 v5.3.0: God",
                "PM2 v5.3.0: God Daemon (/root/.pm2)",
                "pm2",
            ),
            ("node", "node /opt/nodemon/bin/nodemon.js app.js", "nodemon"),
            ("node", "node /opt/forever/bin/monitor app.js", "forever"),
            (
                "python3",
                "python3 -X dev -m watchfiles app.main",
                "watchfiles",
            ),
            ("MainThread", "node --watch app.js", "node --watch"),
            (
                "node",
                "node -r dotenv/config --watch app.js",
                "node --watch",
            ),
            ("node", "node --watch-path=src app.js", "node --watch-path"),
            (
                "node",
                "node /app/node_modules/.bin/tsx watch app.ts",
                "tsx watch",
            ),
        ] {
            assert!(ancestor(name, line).runs(program), "{line}");
        }
    }

    #[test]
    fn a_word_that_names_no_program_is_not_taken_for_one() {
        for (name, line, program) in [
            // `air` is a target of make, and `entr` is a file.
            ("make", "make air", "air"),
            ("vim", "vim entr", "entr"),
            // Here `--watch` and `watch` are arguments of the script, and `watcher.ts` is a script.
            ("node", "node build.js --watch", "node --watch"),
            (
                "node",
                "node /app/node_modules/.bin/tsx app.ts watch",
                "tsx watch",
            ),
            (
                "node",
                "node /app/node_modules/.bin/tsx watcher.ts",
                "tsx watch",
            ),
        ] {
            assert!(!ancestor(name, line).runs(program), "{line}");
        }
    }

    #[test]
    fn a_script_that_a_shell_runs_is_searched_for_a_loop() {
        for (name, line, expected) in [
            ("sh", "sh -c while", true),
            ("sh", "sh -c true", false),
            ("sh", "sh -ec while", true),
            ("sh", "sh -ce while", true),
            ("bash", "bash -eo pipefail -c while", true),
            ("busybox", "busybox sh -c while", true),
            // Without -c, `while` is the name of a script file. No such file exists.
            ("sh", "sh while", false),
            ("sh", "sh", false),
            ("make", "make -c while", false),
        ] {
            assert_eq!(ancestor(name, line).has_loop(), expected, "{line}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_loop_is_found_in_a_script_that_has_changed_its_working_directory() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};

        let folder = tempfile::tempdir().unwrap();
        let script = "cd /\necho ready\nread line\nwhile false; do :; done\n";
        std::fs::write(folder.path().join("loop.sh"), script).unwrap();
        for shell in ["sh", "bash"] {
            let mut command = Command::new(shell);
            command.arg("./loop.sh").current_dir(folder.path());
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let Ok(mut child) = command.spawn() else {
                continue;
            };
            let mut line = String::new();
            let output = child.stdout.take().unwrap();
            BufReader::new(output).read_line(&mut line).unwrap();
            let has_loop = Ancestor::read(child.id()).unwrap().has_loop();
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(has_loop, "{shell} after {line}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_loop_is_found_in_a_script_that_the_shell_reads_from_a_file_as_its_stdin() {
        use std::process::Command;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loop.sh");
        std::fs::write(&path, "kill -STOP $$\nwhile false; do :; done\n").unwrap();
        for arguments in [&[][..], &["-s", "operand"]] {
            let mut command = Command::new("sh");
            command.args(arguments);
            command.stdin(std::fs::File::open(&path).unwrap());
            let mut child = command.spawn().unwrap();
            let has_loop = Ancestor::read(child.id()).unwrap().has_loop();
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(has_loop, "{arguments:?}");
        }
    }

    #[test]
    fn a_loop_of_a_script_is_found_where_a_command_begins() {
        for script in [
            "while true; do server; done",
            "#!/bin/sh\nset -e\n  until server; do sleep 1; done\n",
            "cd /srv && for n in 1 2 3; do server; done",
            "if true; then while :; do server; done; fi",
        ] {
            assert!(has_loop(script), "{script}");
        }
        for script in [
            "server --while",
            "# while it runs\nexec server for tests",
            "echo until; server",
        ] {
            assert!(!has_loop(script), "{script}");
        }
    }
}
