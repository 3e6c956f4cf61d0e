//! The text of a diagnosis or a failure, for users of a shell.

use portlease::Diagnosis;

use crate::failure::{Cause, Failure};
use crate::output::remedy;

/// The headline, the facts and the help line. Further ports that failed the same check follow, each
/// with the same parts.
pub(crate) fn full(diagnosis: &Diagnosis) -> String {
    below(diagnosis.headline(), diagnosis)
}

/// Puts the facts, the help line and the further ports below the headline.
fn below(headline: String, diagnosis: &Diagnosis) -> String {
    let mut lines = vec![headline];
    lines.extend(diagnosis.facts());
    lines.extend(help(diagnosis).map(|help| format!("help: {help}")));
    lines.extend(diagnosis.more().iter().map(full));
    lines.join("\n")
}

pub(crate) fn help(diagnosis: &Diagnosis) -> Option<String> {
    remedy::in_one_line(diagnosis.remedies())
}

pub(crate) fn headline_and_help(diagnosis: &Diagnosis) -> String {
    let headline = diagnosis.headline();
    match help(diagnosis) {
        Some(help) => format!("{headline}\nhelp: {help}"),
        None => headline,
    }
}

/// The text of a failure. If it is an error of the library with a diagnosis, the facts about the
/// port follow below.
pub(crate) fn failure(failure: &Failure) -> String {
    match failure.cause() {
        Cause::Text(text) => text.clone(),
        Cause::Library(error) => match error.diagnosis() {
            Some(diagnosis) => below(error.to_string(), diagnosis),
            None => error.to_string(),
        },
    }
}
