//! The text of a diagnosis or a failure, for users of a shell.

use std::collections::HashSet;
use std::slice;

use portlease::{Diagnosis, Endpoint, ErrorKind, Remedy};

use crate::failure::{Cause, Failure};
use crate::output::remedy::{self, Asked};

/// Returns the headline, the facts and the help line. The same parts follow for each further port
/// that failed the same check.
pub(crate) fn full(diagnosis: &Diagnosis, asked: Asked) -> String {
    below(diagnosis.headline(), diagnosis, asked)
}

/// Puts the facts, the help line and the further ports below the headline.
fn below(headline: String, diagnosis: &Diagnosis, asked: Asked) -> String {
    let mut lines = vec![headline];
    lines.extend(diagnosis.facts());
    lines.extend(help(diagnosis, asked).map(|help| format!("help: {help}")));
    lines.extend(diagnosis.more().iter().map(|more| full(more, asked)));
    lines.join("\n")
}

pub(crate) fn help(diagnosis: &Diagnosis, asked: Asked) -> Option<String> {
    remedy::in_one_line(diagnosis.remedies(), asked)
}

/// Joins the remedies for several ports into one line. Each text appears once, and the remedies
/// that end a holder come first. Omits the `portlease` commands that wait, and the remedies that
/// name a free address.
pub(crate) fn help_for_all(diagnoses: &[&Diagnosis], asked: Asked) -> Option<String> {
    let after_wait = Asked {
        waited: true,
        ..asked
    };
    let all = diagnoses.iter().flat_map(|diagnosis| diagnosis.remedies());
    let (mut remedies, others): (Vec<Remedy>, Vec<Remedy>) =
        all.cloned().partition(Remedy::ends_a_holder);
    remedies.extend(others);
    remedies.retain(|remedy| !matches!(remedy, Remedy::ListenOnFreeAddress { .. }));
    let mut texts = HashSet::new();
    remedies
        .retain(|remedy| texts.insert(remedy::in_one_line(slice::from_ref(remedy), after_wait)));
    remedy::in_one_line(&remedies, after_wait)
}

/// The help line for users whose server does not set SO_REUSEADDR. It is about a port that only
/// servers with SO_REUSEADDR can bind.
pub(crate) fn help_for_others(problem: &Diagnosis, asked: Asked) -> Option<String> {
    let mut remedies = problem.remedies().to_vec();
    remedies.retain(|remedy| !matches!(remedy, Remedy::ReserveAnotherPort { .. }));
    let help = remedy::in_one_line(&remedies, asked)?;
    Some(format!("for other servers, {help}"))
}

/// The report on a port that only servers with SO_REUSEADDR can bind.
pub(crate) fn needs_reuse_addr(problem: &Diagnosis, endpoint: Endpoint, asked: Asked) -> String {
    let cause = problem.cause();
    let headline =
        format!("port {endpoint} is free only for a server that sets SO_REUSEADDR: {cause}");
    with_help(headline, help_for_others(problem, asked))
}

pub(crate) fn headline_and_help(diagnosis: &Diagnosis, asked: Asked) -> String {
    with_help(diagnosis.headline(), help(diagnosis, asked))
}

/// The report after the expected process has ended: the headline and the remedies. Omits the
/// remedies that resume or inspect a process, because the expected process no longer runs.
pub(crate) fn after_end(diagnosis: &Diagnosis, mut remedies: Vec<Remedy>, asked: Asked) -> String {
    remedies.retain(|remedy| !remedy::needs_running_process(remedy));
    with_help(diagnosis.headline(), remedy::in_one_line(&remedies, asked))
}

/// Puts the help line below the text.
pub(crate) fn with_help(text: String, help: Option<String>) -> String {
    match help {
        Some(help) => format!("{text}\nhelp: {help}"),
        None => text,
    }
}

/// Returns the text of a failure. For a library error with a diagnosis, the facts about the port
/// and the help line follow.
pub(crate) fn failure(failure: &Failure) -> String {
    match failure.cause() {
        Cause::Text(text) => text.clone(),
        Cause::Library(error) => match error.diagnosis() {
            Some(diagnosis) => below(
                error.to_string(),
                diagnosis,
                Asked {
                    waited: failure.asked().waited || error.kind() == ErrorKind::TimedOut,
                    ..failure.asked()
                },
            ),
            None => error.to_string(),
        },
    }
}
