//! Helper processes: the bench program, started again for a part of the measurement.

use std::error::Error;
use std::fmt::Display;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// A child that prints "ready" and continues after one line of input. Dropping it kills the child.
pub(crate) struct Helper {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    pub(crate) fn start(args: &[&str]) -> Outcome<Helper> {
        Helper::spawn(Command::new(std::env::current_exe()?).args(args))
    }

    pub(crate) fn spawn(command: &mut Command) -> Outcome<Helper> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (stdin, stdout) = stdin.zip(stdout).ok_or("a helper without pipes")?;
        Ok(Helper {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        })
    }

    pub(crate) fn when_ready(mut self) -> Outcome<Helper> {
        match self.line()?.as_str() {
            "ready" => Ok(self),
            line => Err(format!("a helper printed {line:?} instead of \"ready\"").into()),
        }
    }

    pub(crate) fn send(&mut self, line: impl Display) -> Outcome<()> {
        Ok(writeln!(self.stdin, "{line}")?)
    }

    pub(crate) fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // The child may have exited already.
        let _exited = self.child.kill();
        let _exited = self.child.wait();
    }
}

/// The child's side of [`Helper::when_ready`].
pub(crate) fn print_ready_and_wait() -> Outcome<()> {
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
