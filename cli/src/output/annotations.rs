//! GitHub Actions' annotations: lines of a step's output that it shows beside the run.

use crate::finding::Finding;
use crate::output::report;

/// Whether a job of GitHub Actions runs us.
pub(crate) fn in_github_actions() -> bool {
    std::env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true")
}

pub(crate) fn error_line(finding: &Finding) -> Option<String> {
    finding
        .problem
        .as_ref()
        .map(|problem| format!("::error::{}", escaped(&report::headline_and_help(problem))))
}

/// As the runner reads it back.
fn escaped(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}
