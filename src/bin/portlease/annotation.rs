//! GitHub Actions' annotations: lines of a step's output that it shows beside the run.

use crate::check::Finding;

/// Whether a job of GitHub Actions runs us.
pub(crate) fn are_wanted() -> bool {
    std::env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true")
}

pub(crate) fn annotation(finding: &Finding) -> Option<String> {
    let help = finding.problem.as_ref()?.help();
    let help = help.map_or_else(String::new, |help| format!("\nhelp: {help}"));
    Some(format!("::error::{}", escaped(&format!("{}{help}", finding.headline()))))
}

/// As the runner reads it back.
fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}
