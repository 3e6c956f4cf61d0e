//! The text of a diagnosis or a failure, for users of a shell.

use std::collections::HashSet;
use std::slice;

use portlease::{Diagnosis, ErrorKind, Remedy};

use crate::failure::{Cause, Failure};
use crate::output::remedy;

/// The headline, the facts and the help line. Further ports that failed the same check follow, each
/// with the same parts. `waited` says whether the report follows a wait.
pub(crate) fn full(diagnosis: &Diagnosis, waited: bool) -> String {
    below(diagnosis.headline(), diagnosis, waited)
}

/// Puts the facts, the help line and the further ports below the headline.
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

/// The remedies for several ports in one line, each text once. Remedies that wait for a port are
/// left out, and so is another address for each port. Remedies that end a holder come first.
pub(crate) fn help_for_all(diagnoses: &[&Diagnosis]) -> Option<String> {
    let all = diagnoses.iter().flat_map(|diagnosis| diagnosis.remedies());
    let (mut remedies, others): (Vec<Remedy>, Vec<Remedy>) =
        all.cloned().partition(Remedy::ends_a_holder);
    remedies.extend(others);
    remedies.retain(|remedy| !matches!(remedy, Remedy::ListenOnFreeAddress { .. }));
    let mut texts = HashSet::new();
    remedies.retain(|remedy| texts.insert(remedy::in_one_line(slice::from_ref(remedy), true)));
    remedy::in_one_line(&remedies, true)
}

pub(crate) fn headline_and_help(diagnosis: &Diagnosis, waited: bool) -> String {
    let headline = diagnosis.headline();
    match help(diagnosis, waited) {
        Some(help) => format!("{headline}\nhelp: {help}"),
        None => headline,
    }
}

/// The text of a failure. If it is an error of the library with a diagnosis, the facts about the
/// port and the help line follow below.
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
