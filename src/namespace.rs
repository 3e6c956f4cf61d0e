//! [`Namespace`] identifies the network namespace of the calling thread. [`PerNamespace`] keeps one
//! value for each namespace.
//!
//! Ports belong to a network namespace, and two threads of one process can be in different
//! namespaces (setns(2), unshare(2)). What the kernel reports in one namespace must not be used in
//! another.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use parking_lot::RwLock;

#[cfg(target_os = "linux")]
use crate::proc_fs;
use crate::retry::NAMESPACES_KEPT;

/// The inode of the file below `/proc` that stands for a network namespace. The value is 0 where
/// namespaces cannot be distinguished: on systems other than Linux, without `/proc`, and on an
/// emulator that shows no namespace, such as gVisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Namespace(u64);

thread_local! {
    static MEMO: Cell<Option<Namespace>> = const { Cell::new(None) };
}

impl Namespace {
    /// The namespace of the calling thread. While the thread has a [`Memo`], this is the namespace
    /// that the memo read.
    pub(crate) fn current() -> Namespace {
        MEMO.get().unwrap_or_else(read)
    }

    /// Whether the process `pid` is in another namespace than the calling thread. `false` if one of
    /// the two namespaces is unknown.
    pub(crate) fn differs_from_that_of(pid: u32) -> bool {
        let current = Namespace::current().inode();
        let other = of_process(pid);
        current.is_some() && other.is_some() && current != other
    }

    /// `None` if the namespace is unknown.
    pub(crate) fn inode(self) -> Option<u64> {
        Some(self.0).filter(|inode| *inode != 0)
    }
}

#[cfg(target_os = "linux")]
fn read() -> Namespace {
    // Reads the namespace of the thread, not of the process, because a socket belongs to the
    // namespace of the thread that creates it.
    Namespace(proc_fs::namespace("/proc/thread-self/ns/net").unwrap_or(0))
}

#[cfg(target_os = "linux")]
fn of_process(pid: u32) -> Option<u64> {
    proc_fs::shows_own_processes()
        .then(|| proc_fs::namespace(&format!("/proc/{pid}/ns/net")))
        .flatten()
}

#[cfg(not(target_os = "linux"))]
fn of_process(_: u32) -> Option<u64> {
    None
}

#[cfg(not(target_os = "linux"))]
fn read() -> Namespace {
    Namespace(0)
}

/// For tests: calls `call` as on a system where `/proc` does not show the namespace.
#[cfg(test)]
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn in_unknown_namespace<T>(call: impl FnOnce() -> T) -> T {
    let outer = MEMO.replace(Some(Namespace(0)));
    let value = call();
    MEMO.set(outer);
    value
}

/// A memo stores the namespace of its thread. While the memo exists, the thread does not read the
/// namespace again. Each read costs some microseconds, so a public call creates a memo and reads
/// once. The thread cannot change its namespace before the call returns.
#[derive(Debug)]
pub(crate) struct Memo {
    outer: Option<Namespace>,
    /// Keeps the memo on its thread, because `MEMO` is a thread-local variable.
    _not_send: PhantomData<*const ()>,
}

impl Memo {
    pub(crate) fn new() -> Memo {
        let outer = MEMO.replace(Some(Namespace::current()));
        Memo {
            outer,
            _not_send: PhantomData,
        }
    }
}

impl Drop for Memo {
    fn drop(&mut self) {
        MEMO.set(self.outer);
    }
}

/// Keeps one value for each network namespace, for at most [`NAMESPACES_KEPT`] of them. A value for
/// a further namespace replaces the oldest value.
///
/// The kernel can give the inode of an ended namespace to a new namespace. In the new namespace,
/// [`get`](Self::get) then returns the value of the ended namespace. So each value must have one of
/// these properties:
///
/// - It is right in every namespace of this kernel.
/// - It expires soon.
/// - It is checked before each use.
/// - It keeps its namespace alive, as a socket does.
#[derive(Debug)]
pub(crate) struct PerNamespace<T>(RwLock<Vec<(Namespace, Arc<T>)>>);

impl<T> PerNamespace<T> {
    pub(crate) const fn new() -> Self {
        PerNamespace(RwLock::new(Vec::new()))
    }

    pub(crate) fn get(&self) -> Option<Arc<T>> {
        let current = Namespace::current();
        let known = self.0.read();
        let found = known.iter().find(|(namespace, _)| *namespace == current);
        found.map(|(_, value)| value.clone())
    }

    /// The value of the current namespace. If there is none, `make` makes it. A failure of `make`
    /// is not kept.
    pub(crate) fn get_or_try_init<E>(
        &self,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        match self.get() {
            Some(value) => Ok(value),
            None => Ok(self.set(make()?)),
        }
    }

    pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> Arc<T> {
        self.get().unwrap_or_else(|| self.set(make()))
    }

    pub(crate) fn set(&self, value: T) -> Arc<T> {
        let (current, value) = (Namespace::current(), Arc::new(value));
        let mut known = self.0.write();
        known.retain(|(namespace, _)| *namespace != current);
        known.push((current, value.clone()));
        if known.len() > NAMESPACES_KEPT {
            known.remove(0);
        }
        value
    }

    /// Removes this value. If another value has replaced it, nothing happens.
    pub(crate) fn forget(&self, value: &Arc<T>) {
        self.0
            .write()
            .retain(|(_, known)| !Arc::ptr_eq(known, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_kept_until_it_is_replaced_or_forgotten() {
        let kept = PerNamespace::new();
        assert!(kept.get().is_none());
        assert!(kept.get_or_try_init(|| Err::<u8, _>("failed")).is_err());
        let one = kept.get_or_init(|| 1);
        assert_eq!(*kept.get_or_init(|| 2), 1);
        kept.forget(&Arc::new(1));
        assert!(kept.get().is_some_and(|kept| Arc::ptr_eq(&kept, &one)));
        let two = kept.set(2);
        assert_eq!(kept.get().as_deref(), Some(&2));
        kept.forget(&two);
        assert!(kept.get().is_none());
    }

    #[test]
    fn the_values_of_the_last_namespaces_are_kept() {
        let kept = PerNamespace::new();
        for inode in 1..=20 {
            MEMO.set(Some(Namespace(inode)));
            kept.set(inode);
        }
        assert_eq!(kept.get().as_deref(), Some(&20));
        assert_eq!(kept.0.read().len(), NAMESPACES_KEPT);
        MEMO.set(Some(Namespace(20 - NAMESPACES_KEPT as u64)));
        assert!(kept.get().is_none());
        MEMO.set(None);
    }

    #[test]
    fn a_memo_ends_with_its_call() {
        let outer = Memo::new();
        drop(Memo::new());
        assert!(MEMO.get().is_some());
        drop(outer);
        assert!(MEMO.get().is_none());
    }
}
