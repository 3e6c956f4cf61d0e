//! A bench, started again for a part of the measurement.

use std::error::Error;
use std::fmt::Display;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

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
            line => Err(format!("a helper said {line:?}").into()),
        }
    }

    pub(crate) fn tell(&mut self, line: impl Display) -> Outcome<()> {
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
