//! The text of a diagnosis or a failure, for people at a shell.
//!
//! The library names its functions in help lines. Every such text passes through this file, where
//! [`for_shells`] puts commands in their place.

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

/// An error of the library is followed by what it found out about the port.
pub(crate) fn failure(failure: &Failure) -> String {
    match failure.cause() {
        Cause::Text(text) => text.clone(),
        Cause::Library(error) => for_shells(&format!("{error:?}")),
    }
}
