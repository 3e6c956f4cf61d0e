//! [`Diagnosis`]: what is known about a port, why it is so, and what helps.
use crate::endpoint::Endpoint;
use crate::record::Lease;
/// stub
#[derive(Clone, Debug)]
pub struct Diagnosis {
    pub(crate) endpoint: Endpoint,
    pub(crate) lease: Option<Lease>,
}
impl Diagnosis {
    pub(crate) fn cause(&self) -> String {
        match &self.lease {
            Some(l) => l.by(),
            None => "somebody".into(),
        }
    }
}
impl std::fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "port {} is in use: {}", self.endpoint, self.cause())
    }
}
impl std::error::Error for Diagnosis {}
