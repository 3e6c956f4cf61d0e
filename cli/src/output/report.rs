//! The text of a diagnosis or a failure, for users of a shell.

use portlease::{Diagnosis, ErrorKind};

use crate::failure::{Cause, Failure};
use crate::output::remedy;

/// The headline, the facts and the help line, also of further ports that failed the same check.
/// `waited`: the report follows a wait.
pub(crate) fn full(diagnosis: &Diagnosis, waited: bool) -> String {
    below(diagnosis.headline(), diagnosis, waited)
}

/// A headline, and below it the facts, the help line and the further ports.
fn below(headline: String, diagnosis: &Diagnosis, waited: bool) -> String {
    let mut lines = vec![headline];
    lines.extend(diagnosis.facts());
    lines.extend(help(diagnosis, waited).map(|help| format!("help: {help}")));
    lines.extend(diagnosis.more().iter().map(|more| full(more, waited)));
    lines.join("\n")
}

pub(crate) fn help(diagnosis: &Diagnosis, waited: bool) -> Option<String> {
    remedy::in_one_line(diagnosis.remedies(), waited)
}

pub(crate) fn headline_and_help(diagnosis: &Diagnosis, waited: bool) -> String {
    let headline = diagnosis.headline();
    match help(diagnosis, waited) {
        Some(help) => format!("{headline}\nhelp: {help}"),
        None => headline,
    }
}

/// The error, and below an error of the library the facts about the port.
pub(crate) fn failure(failure: &Failure) -> String {
    match failure.cause() {
        Cause::Text(text) => text.clone(),
        Cause::Library(error) => match error.diagnosis() {
            Some(diagnosis) => below(
                error.to_string(),
                diagnosis,
                error.kind() == ErrorKind::TimedOut,
            ),
            None => error.to_string(),
        },
    }
}
