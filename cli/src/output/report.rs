//! The text of a diagnosis or a failure, for users of a shell.
//!
//! The library's help lines name functions. Every text with a help line passes through this file,
//! which replaces the functions by commands.

use portlease::Diagnosis;

use crate::failure::{Cause, Failure};
use crate::output::advice::for_shells;

/// The headline, the facts and the help line.
pub(crate) fn full(diagnosis: &Diagnosis) -> String {
    for_shells(&diagnosis.to_string())
}

pub(crate) fn headline(diagnosis: &Diagnosis) -> String {
    full(diagnosis)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

pub(crate) fn cause(diagnosis: &Diagnosis) -> String {
    for_shells(&diagnosis.cause())
}

pub(crate) fn help(diagnosis: &Diagnosis) -> Option<String> {
    diagnosis.help().map(|help| for_shells(&help))
}

pub(crate) fn headline_and_help(diagnosis: &Diagnosis) -> String {
    let headline = headline(diagnosis);
    match help(diagnosis) {
        Some(help) => format!("{headline}\nhelp: {help}"),
        None => headline,
    }
}

/// The error, and for an error of the library what it found on the port.
pub(crate) fn failure(failure: &Failure) -> String {
    match failure.cause() {
        Cause::Text(text) => text.clone(),
        Cause::Library(error) => for_shells(&format!("{error:?}")),
    }
}
