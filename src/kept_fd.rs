//! [`KeptFd`]: a descriptor that this crate keeps between calls. Other code of the process may
//! close it in between.
//!
//! For example, a library that turns a process into a daemon closes every descriptor it finds. The
//! number of the descriptor can then belong to another file. This crate must neither use nor close
//! that file.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{OFlags, Stat, fcntl_getfl, fstat};
use rustix::io::Errno;

#[derive(Debug)]
pub(crate) struct KeptFd<T: AsFd> {
    /// `None` after [`take`](KeptFd::take).
    value: Option<T>,
    identity: Identity,
    /// O_RDONLY, O_WRONLY or O_RDWR. `None` after [`sole`](KeptFd::sole).
    access: Option<OFlags>,
}

/// Device and inode, which distinguish a kept file from every other file that is open at the same
/// time.
type Identity = (i128, i128);

impl<T: AsFd> KeptFd<T> {
    pub(crate) fn new(value: T) -> io::Result<KeptFd<T>> {
        Ok(KeptFd {
            identity: identity(&value)?,
            access: Some(access(&value)?),
            value: Some(value),
        })
    }

    /// Keeps the only descriptor that this process has of a file, such as a socket. Device and
    /// inode are enough to recognize such a descriptor. So the function does not read the access
    /// mode, which saves two system calls.
    pub(crate) fn sole(value: T) -> io::Result<KeptFd<T>> {
        Ok(KeptFd {
            identity: identity(&value)?,
            access: None,
            value: Some(value),
        })
    }

    /// The descriptor. `None` if its number now belongs to another file or to no file. Also `None`
    /// if fstat(2) fails, as for the `/proc` file of a setting whose network namespace has ended.
    /// The fstat(2) takes 0.3 us.
    pub(crate) fn intact(&self) -> Option<&T> {
        let value = self.value.as_ref()?;
        let now = identity(value).ok();
        (now == Some(self.identity)).then_some(value)
    }

    /// The descriptor, without the check of [`intact`](KeptFd::intact). Only the public call that
    /// made this value may use this function. `None` after [`take`](KeptFd::take).
    pub(crate) fn unchecked(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// The descriptor, to use it for the last time and to close it. `None` if the number now seems
    /// to belong to no file or to another file. A close would then close that other file.
    pub(crate) fn take(&mut self) -> Option<T> {
        let value = self.value.take()?;
        if self.is_own(&value) {
            Some(value)
        } else {
            std::mem::forget(value);
            None
        }
    }

    /// The inode of the kept file. For a socket, the socket table shows the same inode.
    pub(crate) fn inode(&self) -> Option<NonZeroU64> {
        let (_, inode) = self.identity;
        u64::try_from(inode).ok().and_then(NonZeroU64::new)
    }

    /// Whether this is the status of the kept file.
    pub(crate) fn is_described_by(&self, status: &Stat) -> bool {
        self.identity == identity_in(status)
    }

    /// Returns `true` if the number still seems to belong to the kept descriptor: file and access
    /// mode are the same. For the `/proc` file of a setting whose network namespace has ended,
    /// fstat(2) fails with ENOENT. So this error counts as the same file.
    fn is_own(&self, value: &T) -> bool {
        let is_same = match identity(value) {
            Ok(now) => now == self.identity,
            Err(error) => Errno::from_io_error(&error) == Some(Errno::NOENT),
        };
        let has_kept_access = |kept| access(value).is_ok_and(|now| now == kept);
        is_same && self.access.is_none_or(has_kept_access)
    }
}

/// Does not check that the descriptor is still [`intact`](KeptFd::intact). The caller must have
/// checked this earlier in the same call.
impl<T: AsFd> AsFd for KeptFd<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.value {
            Some(value) => value.as_fd(),
            None => unreachable!("the value is used after `take`"),
        }
    }
}

impl<T: AsFd> Drop for KeptFd<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

fn identity(file: impl AsFd) -> io::Result<Identity> {
    Ok(identity_in(&fstat(file)?))
}

fn identity_in(status: &Stat) -> Identity {
    (status.st_dev.into(), status.st_ino.into())
}

fn access(file: impl AsFd) -> io::Result<OFlags> {
    Ok(fcntl_getfl(file)? & OFlags::RWMODE)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use super::*;

    /// Makes the number of the kept descriptor refer to this file. The drop of `kept` must not
    /// close the number, because the result owns it.
    fn replace(kept: &KeptFd<File>, file: &File) -> OwnedFd {
        let number = kept.intact().unwrap().as_raw_fd();
        #[expect(
            unsafe_code,
            reason = "the test replaces the file of a kept descriptor"
        )]
        // SAFETY: the drop of `kept` does not close the number, so `target` is its only owner.
        let mut target = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::dup2(file, &mut target).unwrap();
        target
    }

    /// dup2(2) makes the number refer to another file. The same happens when other code closes
    /// every descriptor and then opens files.
    #[test]
    fn a_descriptor_whose_number_is_another_files_is_neither_used_nor_closed() {
        let kept = KeptFd::new(File::open("/dev/null").unwrap()).unwrap();
        let target = replace(&kept, &File::open("/dev/zero").unwrap());
        assert!(kept.intact().is_none());
        drop(kept);
        assert!(
            rustix::fs::fstat(&target).is_ok(),
            "drop closed the other file"
        );
    }

    /// Two descriptors of one file have the same device and inode. Only their access modes can show
    /// that the kept descriptor is gone.
    #[test]
    fn a_descriptor_with_another_access_mode_is_not_closed() {
        let kept = KeptFd::new(File::open("/dev/null").unwrap()).unwrap();
        let target = replace(
            &kept,
            &File::options().write(true).open("/dev/null").unwrap(),
        );
        drop(kept);
        assert!(
            rustix::fs::fstat(&target).is_ok(),
            "drop closed the other descriptor"
        );
    }
}
