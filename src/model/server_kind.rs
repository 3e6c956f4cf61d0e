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
/// On Windows, servers use a port exclusively, so all kinds are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerKind {
    /// SO_REUSEADDR, with or without SO_REUSEPORT: practically every server. Connections that an
    /// earlier server left do not refuse it.
    #[default]
    ReuseAddr,
    /// SO_REUSEPORT alone.
    ReusePort,
    /// Neither: Python's bare `socketserver.TCPServer`, Erlang's `gen_tcp` by default, Java after
    /// `setReuseAddress(false)`. Connections of an earlier server refuse it.
    Plain,
}

impl ServerKind {
    /// Whether such a server binds over a claim. One with SO_REUSEPORT alone does under the same
    /// user.
    pub(crate) fn binds_over_claims(self) -> bool {
        self != ServerKind::Plain
    }
}
