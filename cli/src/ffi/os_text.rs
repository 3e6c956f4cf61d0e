//! The one unsafe call about texts of the system.
#![expect(unsafe_code, reason = "std checks the bytes of no OsString")]

use std::ffi::OsString;

/// The text with these bytes. The bytes must consist of parts of [`OsStr::as_encoded_bytes`] and of
/// UTF-8 text, and each such part must begin and end at the text or next to an ASCII character.
///
/// [`OsStr::as_encoded_bytes`]: std::ffi::OsStr::as_encoded_bytes
pub(crate) fn joined(bytes: Vec<u8>) -> OsString {
    // SAFETY: the caller promises what std requires: the bytes were split only beside valid UTF-8.
    unsafe { OsString::from_encoded_bytes_unchecked(bytes) }
}
