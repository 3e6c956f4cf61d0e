//! Gathers what a [`Diagnosis`] says.
use crate::diagnosis::Diagnosis;
use crate::endpoint::{Endpoint, Protocol};
use crate::lease;
pub(crate) fn in_use(endpoint: Endpoint) -> Diagnosis {
    Diagnosis { endpoint, lease: lease::peek(Protocol::Tcp, endpoint.port).ok().flatten() }
}
