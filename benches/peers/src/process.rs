//! This program, started again for a part of the measurement.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// Runs a part in a network namespace of its own, after these commands of the shell, and returns the lines that it
/// printed. Without root the namespace takes a user namespace as well, which some systems forbid.
pub(crate) fn alone(setup: &str, args: &[&str], envs: &[(&str, &str)]) -> Outcome<Vec<String>> {
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
    command.args(unshare).args(["sh", "-c", &script]).arg(std::env::current_exe()?).args(args);
    let output = command.envs(envs.iter().copied()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{args:?} in a network namespace of its own: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// One that says "ready", and goes on at a word. Ends with the value.
pub(crate) struct Helper {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    pub(crate) fn start(args: &[&str]) -> Outcome<Helper> {
        Helper::of(Command::new(std::env::current_exe()?).args(args))
    }

    pub(crate) fn of(command: &mut Command) -> Outcome<Helper> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (stdin, stdout) = stdin.zip(stdout).ok_or("a helper without pipes")?;
        Ok(Helper { child, stdin, stdout: BufReader::new(stdout) })
    }

    pub(crate) fn when_ready(mut self) -> Outcome<Helper> {
        match self.line()?.as_str() {
            "ready" => Ok(self),
            line => Err(format!("a helper said {line:?}").into()),
        }
    }

    pub(crate) fn go(&mut self) -> Outcome<()> {
        Ok(writeln!(self.stdin, "go")?)
    }

    pub(crate) fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// A helper's side.
pub(crate) fn say_ready_and_wait() -> Outcome<()> {
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
