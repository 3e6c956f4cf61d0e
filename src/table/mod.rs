//! stub until the table lands
use crate::endpoint::Protocol;
use crate::holder::State;
use std::io;
use std::net::SocketAddr;
pub(crate) struct Row {
    pub(crate) state: State,
    pub(crate) inode: u64,
    pub(crate) local: SocketAddr,
}
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
}
impl Table {
    pub(crate) fn sees_bound(&self) -> bool {
        false
    }
}
pub(crate) fn sockets(_port: u16, _p: Option<Protocol>) -> io::Result<Table> {
    Err(io::ErrorKind::Unsupported.into())
}
pub(crate) fn started(_pid: u32) -> Option<u64> {
    None
}
