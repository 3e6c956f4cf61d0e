//! The one unsafe call that creates an [`OsString`].
#![expect(unsafe_code, reason = "std has no checked call for encoded bytes")]

use std::ffi::OsString;

/// Makes a text of these bytes: UTF-8 text, and parts of [`OsStr::as_encoded_bytes`]. The caller
/// must have cut the parts only next to ASCII characters.
///
/// [`OsStr::as_encoded_bytes`]: std::ffi::OsStr::as_encoded_bytes
pub(crate) fn joined(bytes: Vec<u8>) -> OsString {
    // SAFETY: std allows a cut next to valid UTF-8, and the caller has cut only next to ASCII.
    unsafe { OsString::from_encoded_bytes_unchecked(bytes) }
}
