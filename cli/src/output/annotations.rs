//! Annotations: lines of output that GitHub Actions shows on the page of a workflow run.

use crate::finding::Finding;
use crate::output::report;

/// Whether this process runs in a job of GitHub Actions.
pub(crate) fn in_github_actions() -> bool {
    std::env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true")
}

pub(crate) fn error_line(finding: &Finding) -> Option<String> {
    finding.problem.as_ref().map(|problem| {
        format!(
            "::error::{}",
            escaped(&report::headline_and_help(problem, finding.asked))
        )
    })
}

/// Escapes the three characters that the runner of GitHub Actions unescapes.
fn escaped(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}
