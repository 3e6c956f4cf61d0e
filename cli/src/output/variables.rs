//! [`FormatArgs`]: the numbers of `reserve` as variables, for shells, dotenv files and CI.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;

use clap::ValueEnum;

use crate::failure::Failure;
use crate::ports::parse_variable;

/// How `reserve` prints the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Each number on a line of its own
    Plain,
    /// Lines for eval in a shell, such as export PORT=41023
    Env,
    /// Lines of a dotenv file, such as PORT=41023
    Dotenv,
    /// Like plain, and append PORT=41023 to the file $GITHUB_ENV, for the later steps of a job
    Github,
    /// Like plain, and append PORT=41023 to the file $NEXTEST_ENV, in a setup script of nextest
    Nextest,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FormatArgs {
    /// How to print the numbers
    #[arg(
        long, value_enum, value_name = "FORMAT", default_value_t = Format::Plain,
        conflicts_with = "json"
    )]
    format: Format,
    /// Name of the variable in --format. For several ports, _1, _2 and so on follow the name
    #[arg(long, value_name = "NAME", default_value = "PORT", value_parser = parse_variable)]
    variable: String,
}

impl FormatArgs {
    /// Fails if the format appends to a file that the environment does not name.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.file().map(drop)
    }

    /// Appends the variables to the file of the format. Does nothing if the format has no file.
    pub(crate) fn append(&self, numbers: &[u16]) -> Result<(), Failure> {
        let Some((variable, path)) = self.file()? else {
            return Ok(());
        };
        let lines = self.assignments("", numbers) + "\n";
        // One write keeps these lines together if other processes append to the file too.
        let file = OpenOptions::new().append(true).create(true).open(&path);
        file.and_then(|mut file| file.write_all(lines.as_bytes()))
            .map_err(|e| {
                let path = path.to_string_lossy();
                Failure::system(format_args!("append to {path:?} (${variable})"), &e)
            })
    }

    /// The text for stdout, without the last line end.
    pub(crate) fn text(&self, numbers: &[u16]) -> String {
        match self.format {
            Format::Env => self.assignments("export ", numbers),
            Format::Dotenv => self.assignments("", numbers),
            Format::Plain | Format::Github | Format::Nextest => {
                let lines: Vec<String> = numbers.iter().map(u16::to_string).collect();
                lines.join("\n")
            }
        }
    }

    /// Returns the environment variable that names the file to append to, and the path of the file.
    /// Returns `None` if the format appends to no file.
    fn file(&self) -> Result<Option<(&'static str, OsString)>, Failure> {
        let variable = match self.format {
            Format::Plain | Format::Env | Format::Dotenv => return Ok(None),
            Format::Github => "GITHUB_ENV",
            Format::Nextest => "NEXTEST_ENV",
        };
        match std::env::var_os(variable).filter(|path| !path.is_empty()) {
            Some(path) => Ok(Some((variable, path))),
            None => Err(Failure::new(format!(
                "cannot append the numbers: ${variable} is not set; use this format only in {}, \
                 which sets it",
                match self.format {
                    Format::Github => "a job of GitHub Actions",
                    _ => "a setup script of nextest",
                }
            ))),
        }
    }

    fn assignments(&self, prefix: &str, numbers: &[u16]) -> String {
        let name = &self.variable;
        let line = |(at, number): (usize, &u16)| match numbers {
            [_] => format!("{prefix}{name}={number}"),
            _ => format!("{prefix}{name}_{}={number}", at + 1),
        };
        let lines: Vec<String> = numbers.iter().enumerate().map(line).collect();
        lines.join("\n")
    }
}
