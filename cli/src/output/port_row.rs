//! [`PortRow`]: the result of checking one port, in the JSON output.

use portlease::{Diagnosis, Holders};
use serde::Serialize;

use crate::condition::Condition;
use crate::finding::Finding;
use crate::output::ephemeral_usage::EphemeralUsageRow;
use crate::output::json::HolderRow;
use crate::output::remedy::{self, RemedyRow};
use crate::output::report;

/// The result of checking one port.
#[derive(Debug, Serialize)]
pub(crate) struct PortRow {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    free: Option<Option<bool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listening: Option<Option<bool>>,
    holders: Vec<HolderRow>,
    /// Why only a server that sets SO_REUSEADDR can bind the free port: connections of a stopped
    /// server are left. Absent in any other case.
    #[serde(skip_serializing_if = "Option::is_none")]
    needs_reuse_addr: Option<String>,
    cause: Option<String>,
    help: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remedies: Vec<RemedyRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unseen: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ephemeral_range: Option<EphemeralUsageRow>,
}

impl PortRow {
    pub(crate) fn new(finding: &Finding, condition: Condition) -> Self {
        let is_free = matches!(condition, Condition::Free(_));
        let holders = finding.problem.as_ref().and_then(Diagnosis::holders);
        PortRow {
            endpoint: finding.endpoint.to_string(),
            free: is_free.then(|| finding.answer()),
            listening: (!is_free).then(|| finding.answer()),
            holders: holders
                .into_iter()
                .flatten()
                .map(|holder| HolderRow::new(holder, false))
                .collect(),
            needs_reuse_addr: finding.needs_reuse_addr.as_ref().map(Diagnosis::cause),
            cause: finding.problem.as_ref().map(Diagnosis::cause),
            help: finding
                .problem
                .as_ref()
                .and_then(|problem| report::help(problem, finding.asked)),
            remedies: finding
                .problem
                .iter()
                .flat_map(|problem| remedy::rows(problem.remedies(), finding.asked))
                .collect(),
            unseen: holders.map(Holders::unseen).unwrap_or_default(),
            ephemeral_range: holders
                .and_then(Holders::ephemeral_usage)
                .map(EphemeralUsageRow::from),
        }
    }
}
