//! [`KeptFd`]: a descriptor that is kept between calls, and may be closed by other code meanwhile.
//!
//! A library that makes a process a daemon closes every descriptor it finds. The number can then
//! belong to another file, which this crate must neither use nor close.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::fstat;

#[derive(Debug)]
pub(crate) struct KeptFd<T: AsFd> {
    /// `None` only while it is dropped.
    value: Option<T>,
    identity: Identity,
}

/// Device and inode, which no two open files share.
type Identity = (i128, i128);

impl<T: AsFd> KeptFd<T> {
    pub(crate) fn new(value: T) -> io::Result<KeptFd<T>> {
        let identity = identity(&value)?;
        Ok(KeptFd {
            value: Some(value),
            identity,
        })
    }

    /// The descriptor; `None` if its number belongs to another file by now, or to none. The
    /// question is fstat(2), which takes 0.3 us.
    pub(crate) fn intact(&self) -> Option<&T> {
        let value = self.value.as_ref()?;
        let now = identity(value).ok();
        (now == Some(self.identity)).then_some(value)
    }
}

/// For a caller that has asked [`intact`](KeptFd::intact) at the beginning of its call.
impl<T: AsFd> AsFd for KeptFd<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.value {
            Some(value) => value.as_fd(),
            None => unreachable!("it is only taken by drop"),
        }
    }
}

impl<T: AsFd> Drop for KeptFd<T> {
    fn drop(&mut self) {
        if self.intact().is_none() {
            // Its number is another file's.
            std::mem::forget(self.value.take());
        }
    }
}

fn identity(file: impl AsFd) -> io::Result<Identity> {
    let about = fstat(file)?;
    Ok((about.st_dev.into(), about.st_ino.into()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use super::*;

    /// The number is made another file's by dup2(2), as code that closes every descriptor and opens
    /// files would.
    #[test]
    fn a_descriptor_whose_number_is_another_files_is_neither_used_nor_closed() {
        let kept = KeptFd::new(File::open("/dev/null").unwrap()).unwrap();
        let number = kept.intact().unwrap().as_raw_fd();
        #[expect(unsafe_code, reason = "the number is replaced behind the value's back")]
        // SAFETY: the value is forgotten below, so that the number has one owner.
        let mut target = unsafe { OwnedFd::from_raw_fd(number) };
        let other = File::open("/dev/zero").unwrap();
        rustix::io::dup2(&other, &mut target).unwrap();
        assert!(kept.intact().is_none());
        drop(kept);
        assert!(rustix::fs::fstat(&target).is_ok(), "it was closed");
    }
}
