//! The shell that sets `LISTEN_PID`, and the variables that this shell would drop or change.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Command;

use super::passed::Passed;
use super::registry::variables;

pub(super) const SHELL: &str = "/bin/sh";

/// An absolute path, because the command may have another `PATH`.
const ENV: &str = "/usr/bin/env";

/// How many arguments precede the carried variables and the program: `-c`, the script and the
/// shell's `$0`.
const SHELL_ARGS: usize = 3;

/// A variable that [`wrap`] sets for its script. If the caller calls `env_clear` after `pass_to`,
/// the variable is missing, and the script drops the carried variables too.
const MARKER: &str = "PORTLEASE_KEEPS_VARIABLES";

/// Variables that a shell assigns by itself, so that an inherited value is lost. Measured on dash
/// 0.5.12 and bash 5.2.
const ASSIGNED_BY_SHELLS: [&[u8]; 9] = [
    b"BASH",
    b"BASHOPTS",
    b"IFS",
    b"LINENO",
    b"OPTERR",
    b"OPTIND",
    b"PPID",
    b"PS4",
    b"SHELLOPTS",
];

/// Variables that a shell would drop or change, as operands of env(1): `NAME=VALUE`.
#[derive(Debug, Default)]
pub(super) struct CarriedVariables(Vec<OsString>);

impl CarriedVariables {
    /// The variables that a shell would drop or change, with the values that a child of this
    /// command would have now.
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
                    "the child would lose the variable {name:?}: {why}: remove the variable with \
                     env_remove"
                ))
            };
            if name.as_bytes().first().is_none_or(|first| *first == b'=') {
                return refuse("its name is empty or starts with `=`".to_owned());
            }
            if program.as_bytes().contains(&b'=') {
                return refuse(format!(
                    "{SHELL} may drop this variable, and env(1), which restores it, would take the \
                     program {program:?} for a variable"
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
    // The shell's `exec` keeps the process id, so `$$` is also the process id of the program.
    let mut script = format!("export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}; ");
    let mut command = Command::new(SHELL);
    if variables > 0 {
        script += &format!(
            "if test ${{{MARKER}+set}}; then unset {MARKER}; exec {ENV} -- \"$@\"; fi; \
             shift {variables}; "
        );
        command.env(MARKER, "1");
    }
    // Some shells take a program whose name starts with a dash for an option. Other shells do not
    // accept `--` after `exec`. So env(1) executes such a program. env(1) cannot execute a program
    // whose name contains `=`, because it would take the name for a variable.
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

/// The program and arguments of a command that [`wrap`] made. `variables` is the number of its
/// carried variables.
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

/// Whether a shell passes the variable on unchanged. A shell may drop a variable whose name is no
/// identifier (POSIX, Shell Command Language, 2.5.3), and dash does.
fn survives_a_shell(name: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    name.first().is_some_and(is_letter)
        && name
            .iter()
            .all(|byte| is_letter(byte) || byte.is_ascii_digit())
        && !ASSIGNED_BY_SHELLS.contains(&name)
}
