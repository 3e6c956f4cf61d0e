//! The one unsafe call that creates an [`OsString`].
#![expect(unsafe_code, reason = "std has no safe call that takes encoded bytes")]

use std::ffi::OsString;

/// Makes a text of these bytes, which consist of UTF-8 text and of parts of
/// [`OsStr::as_encoded_bytes`]. The caller must have cut these parts only next to ASCII characters.
///
/// [`OsStr::as_encoded_bytes`]: std::ffi::OsStr::as_encoded_bytes
pub(crate) fn joined(bytes: Vec<u8>) -> OsString {
    // SAFETY: std allows a cut next to valid UTF-8, and the caller has cut only next to ASCII.
    unsafe { OsString::from_encoded_bytes_unchecked(bytes) }
}
