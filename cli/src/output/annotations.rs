//! Annotations of GitHub Actions: output lines that it shows on the page of the run.

use crate::finding::Finding;
use crate::output::report;

/// Whether this process runs in a job of GitHub Actions.
pub(crate) fn in_github_actions() -> bool {
    std::env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true")
}

pub(crate) fn error_line(finding: &Finding) -> Option<String> {
    finding
        .problem
        .as_ref()
        .map(|problem| format!("::error::{}", escaped(&report::headline_and_help(problem))))
}

/// Escapes what the runner unescapes.
fn escaped(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}
