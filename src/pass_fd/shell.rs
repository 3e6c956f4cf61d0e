//! The shell that sets `LISTEN_PID`, and the variables that this shell would drop or change.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Command;

use super::passed::Passed;
use super::registry::variables;

pub(super) const SHELL: &str = "/bin/sh";

/// An absolute path, because the command may set another `PATH`.
const ENV: &str = "/usr/bin/env";

/// How many arguments of the shell precede its [`CarriedVariables`] and the program: `-c`, the
/// script and the shell's `$0`.
const SHELL_ARGS: usize = 3;

/// A variable that [`wrap`] sets for its script. If the caller calls `env_clear` after `pass_to`,
/// the variable is missing. The script then drops the [`CarriedVariables`] too.
const MARKER: &str = "PORTLEASE_KEEPS_VARIABLES";

/// Variables that some shells assign by themselves, so that an inherited value is lost. Measured
/// with these shells, each run as `sh`: bash 5.2, busybox 1.35, dash 0.5.12, ksh93u+m 1.0, mksh
/// R59, posh 0.14, yash 2.52 and zsh 5.9.
///
/// `PWD`, `OLDPWD`, `SHLVL` and `_` are left out, because shells update them to describe the child.
const ASSIGNED_BY_SHELLS: &str = "\
    ARGV0 BASH BASHOPTS BASHPID BASH_ARGV0 BASH_COMMAND BASH_EXECUTION_STRING BASH_SUBSHELL \
    BASH_VERSINFO BASH_VERSION COMP_WORDBREAKS CPUTYPE EPOCHREALTIME EPOCHSECONDS HISTCMD IFS \
    KSHEGID KSHGID KSHUID KSH_VERSION LINENO MACHTYPE OPTERR OPTIND OSTYPE PGRP PIPESTATUS \
    POSH_VERSION POSIXLY_CORRECT PPID PS1 PS2 PS4 RANDOM SECONDS SHELLOPTS SRANDOM TTY USER_ID \
    VENDOR YASH_VERSION ZSH_ARGZERO ZSH_EXECUTION_STRING ZSH_NAME ZSH_PATCHLEVEL ZSH_VERSION \
    signals";

/// Variables that a shell would drop or change, as operands of env(1): `NAME=VALUE`.
#[derive(Debug, Default)]
pub(super) struct CarriedVariables(Vec<OsString>);

impl CarriedVariables {
    /// The variables that a shell would drop or change, with the values that a child would get if
    /// the command were started now.
    ///
    /// # Errors
    ///
    /// A text with the name of a variable that env(1) cannot set, and the reason.
    pub(super) fn of(command: &Command, program: &OsStr) -> Result<CarriedVariables, String> {
        let mut operands = Vec::new();
        for (name, value) in environment(command) {
            if survives_a_shell(name.as_bytes()) {
                continue;
            }
            let refuse = |why: String| {
                Err(format!(
                    "the child would lose the variable {name:?}: {why}; remove the variable with \
                     env_remove"
                ))
            };
            if name.as_bytes().first().is_none_or(|first| *first == b'=') {
                return refuse("its name is empty or starts with `=`".to_owned());
            }
            if program.as_bytes().contains(&b'=') {
                return refuse(format!(
                    "{SHELL} may drop this variable, and env(1) cannot restore it, because env(1) \
                     would parse the program {program:?} as a variable"
                ));
            }
            if !Path::new(ENV).exists() {
                return refuse(format!(
                    "{SHELL} may drop this variable, and there is no {ENV} to restore it"
                ));
            }
            operands.push([name.as_bytes(), value.as_bytes()].join(&b'='));
        }
        Ok(CarriedVariables(
            operands.into_iter().map(OsString::from_vec).collect(),
        ))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A shell that sets the variables of sd_listen_fds(3) and executes the program.
pub(super) fn wrap(
    program_and_args: &[OsString],
    carried: &CarriedVariables,
    passed: &Passed,
) -> Command {
    let (names, count) = passed.names();
    let variables = carried.len();
    // The shell's `exec` keeps the process id, so `$$` is also the process id of the program. The
    // values need no quotes, because `systemd_name` replaces every character that the shell might
    // interpret. Shells do not split the value of an assignment, even with an inherited IFS.
    let mut script = format!(
        "LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}; \
         export LISTEN_PID LISTEN_FDS LISTEN_FDNAMES; "
    );
    let mut command = Command::new(SHELL);
    if variables > 0 {
        // The script has no `test`, because yash searches `PATH` for it. `case` is a part of the
        // shell and needs no `PATH`.
        script += &format!(
            "case ${{{MARKER}+set}} in set) unset {MARKER}; exec {ENV} -- \"$@\";; esac; \
             shift {variables}; "
        );
        command.env(MARKER, "1");
    }
    // If a program name starts with a dash, some shells parse it after `exec` as an option. A `--`
    // before the name does not help, because other shells do not accept `--`. So env(1) executes
    // the program. But env(1) parses a name with `=` as a variable, so the shell executes a program
    // with `=` in its name.
    let program = program_and_args[0].as_bytes();
    if program.starts_with(b"-") && !program.contains(&b'=') {
        script += &format!("exec {ENV} -- \"$@\"");
    } else {
        script += "exec \"$@\"";
    }
    command
        .arg("-c")
        .arg(script)
        .arg("portlease")
        .args(&carried.0)
        .args(program_and_args);
    command
}

/// The program and arguments of a command that [`wrap`] made. `variables` is the number of
/// [`CarriedVariables`] in the command.
pub(super) fn unwrap(command: &Command, variables: usize) -> Vec<OsString> {
    let args = command.get_args().skip(SHELL_ARGS + variables);
    args.map(OsStr::to_owned).collect()
}

/// Whether this is the variable that [`wrap`] sets for its script.
pub(super) fn is_marker(variable: &OsStr) -> bool {
    variable == MARKER
}

/// The environment that a child of this command would have if it were started now.
fn environment(command: &Command) -> impl Iterator<Item = (OsString, OsString)> {
    let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    for (name, value) in variables(command) {
        match value {
            Some(value) => environment.insert(name, value),
            None => environment.remove(&name),
        };
    }
    environment.into_iter().filter(|(name, _)| !is_marker(name))
}

/// Returns `false` if a shell may drop the variable or assign it. [`ASSIGNED_BY_SHELLS`] lists the
/// assigned variables. A shell may drop a variable whose name is no identifier (POSIX, Shell
/// Command Language, 2.5.3), and dash does.
fn survives_a_shell(name: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    name.first().is_some_and(is_letter)
        && name
            .iter()
            .all(|byte| is_letter(byte) || byte.is_ascii_digit())
        && !ASSIGNED_BY_SHELLS
            .split(' ')
            .any(|assigned| assigned.as_bytes() == name)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::collections::BTreeMap;

    use super::super::passed::Style;
    use super::*;

    /// The test runs each shell in the list `shells`, because `/bin/sh` can be any of them.
    #[test]
    fn every_shell_passes_every_variable_on() {
        let folder = tempfile::tempdir().unwrap();
        let shells = [
            "bash", "busybox", "dash", "ksh93", "mksh", "posh", "yash", "zsh",
        ];
        let mut tried = 0;
        for shell in shells {
            let found = ["/bin", "/usr/bin"].map(|folder| Path::new(folder).join(shell));
            let Some(path) = found.iter().find(|path| path.exists()) else {
                continue;
            };
            tried += 1;
            // Several shells in the list follow POSIX only if they are started as `sh`.
            let sh = folder.path().join(shell);
            std::fs::create_dir(&sh).unwrap();
            std::os::unix::fs::symlink(path, sh.join("sh")).unwrap();
            let mut variables: BTreeMap<OsString, OsString> = BTreeMap::new();
            for name in ASSIGNED_BY_SHELLS
                .split(' ')
                .chain(["PLAIN", "npm-config", "1st"])
            {
                // Some shells have variables that must be numbers, and end with an error otherwise.
                // So the test gives every variable a number.
                variables.insert(name.into(), "7".into());
            }
            let mut command = Command::new(ENV);
            command.env_clear().arg("-0").envs(&variables);
            let carried = CarriedVariables::of(&command, OsStr::new(ENV)).unwrap();
            // `carried` also contains variables of this process, because `CarriedVariables::of`
            // cannot see `env_clear`. The test keeps only the variables that it sets.
            let carried = carried.0.into_iter();
            let is_set = |operand: &OsString| {
                let name = operand.as_bytes().split(|byte| *byte == b'=').next();
                name.is_some_and(|name| variables.contains_key(OsStr::from_bytes(name)))
            };
            let carried = CarriedVariables(carried.filter(is_set).collect());
            let passed = Passed {
                style: Style::Chosen,
                sockets: Vec::new(),
            };
            let wrapped = wrap(&[ENV.into(), "-0".into()], &carried, &passed);
            let mut shell = Command::new(sh.join("sh"));
            shell.args(wrapped.get_args()).env_clear().envs(&variables);
            let output = shell.env(MARKER, "1").output().unwrap();
            assert!(output.status.success(), "{path:?}: {output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            let got: BTreeMap<OsString, OsString> = text
                .split_terminator('\0')
                .filter_map(|line| line.split_once('='))
                .map(|(name, value)| (name.into(), value.into()))
                .collect();
            for (name, value) in &variables {
                assert_eq!(got.get(name), Some(value), "{path:?}: {name:?}");
            }
        }
        assert!(tried > 0, "no shell is installed");
    }
}
