//! [`ServerKind`]: which reuse options a server sets.

/// Which reuse options a server sets before it binds. A port can be free for one kind and taken for
/// another.
///
/// ```
/// use portlease::{ReserveOptions, ServerKind};
///
/// let p = ReserveOptions::new().server(ServerKind::Plain).reserve()?;
/// portlease::assert_port_free_for(&p, ServerKind::Plain);
/// # Ok::<(), portlease::Error>(())
/// ```
///
/// # Platform-specific behavior
///
/// On Windows this crate treats all kinds alike, because it sets SO_EXCLUSIVEADDRUSE on every
/// socket that it binds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerKind {
    /// The server sets SO_REUSEADDR, with or without SO_REUSEPORT, as practically every server
    /// does. The server can bind a port on which an earlier server of this kind left connections.
    #[default]
    ReuseAddr,
    /// The server sets SO_REUSEPORT alone.
    ReusePort,
    /// The server sets neither option. Examples are Python's bare `socketserver.TCPServer`,
    /// Erlang's `gen_tcp` by default, and Java after `setReuseAddress(false)`. On Unix such a
    /// server cannot bind a port on which an earlier server left connections.
    Plain,
}

impl ServerKind {
    /// Whether the kernel lets a server of this kind bind a port while a claim (this crate's own
    /// bound socket) keeps the port. For [`ReusePort`](ServerKind::ReusePort) the kernel also
    /// requires that the server runs as the user of the claim. This function does not check the
    /// user.
    pub(crate) fn binds_over_claims(self) -> bool {
        self != ServerKind::Plain
    }
}
