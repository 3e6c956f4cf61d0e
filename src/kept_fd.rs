//! [`KeptFd`]: a descriptor that this crate keeps between calls. Other code of the process may
//! close it in between.
//!
//! For example, a library that turns a process into a daemon closes every descriptor it finds. The
//! number of the descriptor can then belong to another file. This crate must neither use nor close
//! that file.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::fstat;

#[derive(Debug)]
pub(crate) struct KeptFd<T: AsFd> {
    /// `None` only inside `drop`.
    value: Option<T>,
    identity: Identity,
}

/// Device and inode, which differ between any two files that are open at the same time.
type Identity = (i128, i128);

impl<T: AsFd> KeptFd<T> {
    pub(crate) fn new(value: T) -> io::Result<KeptFd<T>> {
        let identity = identity(&value)?;
        Ok(KeptFd {
            value: Some(value),
            identity,
        })
    }

    /// The descriptor, or `None` if its number now belongs to another file or to no file. The check
    /// is one fstat(2), which takes 0.3 us.
    pub(crate) fn intact(&self) -> Option<&T> {
        let value = self.value.as_ref()?;
        let now = identity(value).ok();
        (now == Some(self.identity)).then_some(value)
    }
}

/// Does not check that the descriptor is still [`intact`](KeptFd::intact). Use it only in a call
/// that has checked this at its beginning.
impl<T: AsFd> AsFd for KeptFd<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.value {
            Some(value) => value.as_fd(),
            None => unreachable!("only drop takes the value"),
        }
    }
}

impl<T: AsFd> Drop for KeptFd<T> {
    fn drop(&mut self) {
        if self.intact().is_none() {
            // The number may now belong to another file, and dropping the value would close that
            // file.
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

    /// dup2(2) makes the number refer to another file. The same happens when other code closes
    /// every descriptor and then opens files.
    #[test]
    fn a_descriptor_whose_number_is_another_files_is_neither_used_nor_closed() {
        let kept = KeptFd::new(File::open("/dev/null").unwrap()).unwrap();
        let number = kept.intact().unwrap().as_raw_fd();
        #[expect(
            unsafe_code,
            reason = "the test replaces the file of a kept descriptor"
        )]
        // SAFETY: the drop of `kept` below does not close the number, so `target` is its only
        // owner.
        let mut target = unsafe { OwnedFd::from_raw_fd(number) };
        let other = File::open("/dev/zero").unwrap();
        rustix::io::dup2(&other, &mut target).unwrap();
        assert!(kept.intact().is_none());
        drop(kept);
        assert!(
            rustix::fs::fstat(&target).is_ok(),
            "drop closed the other file"
        );
    }
}
