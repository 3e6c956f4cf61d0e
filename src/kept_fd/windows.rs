//! On Windows a [`KeptFd`] is the value itself, without checks. On Unix, other code may close every
//! descriptor number that it finds, such as 3, without knowing its use. Windows does not number
//! its handles in this way.

use std::io;
use std::num::NonZeroU64;

#[derive(Debug)]
pub(crate) struct KeptFd<T>(Option<T>);

impl<T> KeptFd<T> {
    pub(crate) fn sole(value: T) -> io::Result<KeptFd<T>> {
        Ok(KeptFd(Some(value)))
    }

    pub(crate) fn unchecked(&self) -> Option<&T> {
        self.0.as_ref()
    }

    pub(crate) fn take(&mut self) -> Option<T> {
        self.0.take()
    }

    /// Windows has no inodes.
    pub(crate) fn inode(&self) -> Option<NonZeroU64> {
        None
    }
}
