//! The one unsafe call that creates an [`OsString`].
#![expect(unsafe_code, reason = "std has no checked call for encoded bytes")]

use std::ffi::OsString;

/// Makes a text of these bytes. The bytes must consist of UTF-8 text and of parts of
/// [`OsStr::as_encoded_bytes`] that the caller cut only next to ASCII characters.
///
/// [`OsStr::as_encoded_bytes`]: std::ffi::OsStr::as_encoded_bytes
pub(crate) fn joined(bytes: Vec<u8>) -> OsString {
    // SAFETY: the caller promises what std requires: the bytes were split only beside valid UTF-8.
    unsafe { OsString::from_encoded_bytes_unchecked(bytes) }
}
