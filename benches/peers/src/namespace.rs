//! Network namespaces: each part of the measurement has its own.

use std::process::{Command, Stdio};

use crate::helper::Outcome;

/// Runs this program in a new network namespace, after the shell commands `setup`, and returns the
/// lines it printed. Without root this also needs a user namespace, which some systems forbid.
pub(crate) fn run_in_namespace(
    setup: &str,
    args: &[&str],
    envs: &[(&str, &str)],
) -> Outcome<Vec<String>> {
    let works = |args: &[&str]| {
        Command::new("unshare")
            .args(args)
            .arg("true")
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    let unshare: &[&str] = if works(&["-n"]) { &["-n"] } else { &["-Urn"] };
    let script = format!("ip link set lo up && {setup} && exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(unshare)
        .args(["sh", "-c", &script])
        .arg(std::env::current_exe()?)
        .args(args);
    let output = command
        .envs(envs.iter().copied())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!(
            "{args:?} in a network namespace of its own: {}",
            output.status
        )
        .into());
    }
    Ok(String::from_utf8(output.stdout)?
        .lines()
        .map(str::to_owned)
        .collect())
}
